package main

import (
	"go/ast"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/sirocco-cloud/sirocco/contracts/catalogue"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/contracts/subject"
)

// permission is what a service may say and hear, in the words of a NATS server's configuration.
type permission struct {
	Publish   []string `json:"publish"`
	Subscribe []string `json:"subscribe"`
	// AllowResponses lets it answer whoever asked it.
	AllowResponses bool `json:"allow_responses"`
}

const contractsPath = "github.com/sirocco-cloud/sirocco/contracts/"

// permissions derives what each service needs from its source: an endpoint of another service that it mentions is one
// it calls, an event or a domain that it does not own and mentions is one it consumes.
func permissions(root string) ([]byte, error) {
	declared := map[string]rpc.Description{}
	for _, e := range catalogue.Entries {
		declared[e.Name] = e.Message.Describe()
	}
	entries, err := os.ReadDir(filepath.Join(root, "services"))
	if err != nil {
		return nil, err
	}
	all := map[string]permission{}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		used, err := mentions(filepath.Join(root, "services", e.Name()))
		if err != nil {
			return nil, err
		}
		all[e.Name()] = derive(e.Name(), used, declared)
	}
	return encode(all)
}

// mentions are the package.Name selectors into contracts in the Go files below dir, without tests.
func mentions(dir string) (map[string]bool, error) {
	used := map[string]bool{}
	err := eachFile(dir, func(_ string, f *ast.File) {
		imports := map[string]string{}
		for _, i := range f.Imports {
			target, err := strconv.Unquote(i.Path.Value)
			if pkg, ok := strings.CutPrefix(target, contractsPath); ok && err == nil {
				local := path.Base(pkg)
				if i.Name != nil {
					local = i.Name.Name
				}
				imports[local] = pkg
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := s.X.(*ast.Ident); ok && imports[x.Name] != "" {
					used[imports[x.Name]+"."+s.Sel.Name] = true
				}
			}
			return true
		})
	})
	return used, err
}

// derive turns mentions into permissions. The sets grow in a fixed order and are sorted at the end.
func derive(service string, used map[string]bool, declared map[string]rpc.Description) permission {
	pub := set{}
	sub := set{subject.RequestsOf(service): true, "$SRV.>": true, "_INBOX.>": true}
	pub.add("$SRV.PING.>", "$JS.API.INFO", "$JS.FC.>")
	// Whoever may fail to apply a message may bury it.
	pub.add(subject.AllDeadLetters())
	pub.stream("DLQ")
	for _, s := range event.Streams {
		if s.Owner == service {
			pub.stream(s.Name)
			pub.add(s.Subjects...)
			pub.add("$JS.API.STREAM.UPDATE." + s.Name)
		}
	}
	for name, m := range declared {
		switch {
		case !used[name]:
		case m.Kind == rpc.KindRequest && m.Owner != service:
			pub.add(m.Subject)
		case m.Kind == rpc.KindEvent && m.Owner != service:
			pub.consumer(streamOfSubject(m.Subject))
		case m.Kind == rpc.KindCommand && service == m.Owner:
			pub.stream("CMD")
			pub.consumer("CMD")
		case m.Kind == rpc.KindCommand:
			pub.stream("CMD")
			pub.add(subject.AllCommands())
		}
	}
	for _, domain := range event.Domains() {
		// Code names a domain by its constant, event.Keys; the ledger asks for all of them.
		constant := "event." + strings.ToUpper(domain[:1]) + domain[1:]
		if used[constant] || used["event.Domains"] {
			pub.consumer(event.StreamOf(domain))
		}
	}
	dataPlane(service, pub, sub)
	return permission{Publish: pub.sorted(), Subscribe: sub.sorted(), AllowResponses: true}
}

// dataPlane adds the subjects that carry work. They have no declaration, because what they carry is the caller's.
func dataPlane(service string, pub, sub set) {
	queues := strings.TrimSuffix(subject.QueueStream("x"), "x") + "*"
	switch service {
	case "gateway":
		pub.add(anyVersion(subject.Direct), subject.AllQueues(), anyVersion(subject.QueueHint), "_INBOX.>",
			"$JS.API.STREAM.INFO."+queues, "$JS.API.STREAM.MSG.DELETE."+queues)
		pub.objects(functions.ObjectsBucket)
	case "functions":
		pub.objects(functions.ObjectsBucket)
		pub.add("$JS.API.STREAM.CREATE.OBJ_"+functions.ObjectsBucket, "$JS.API.STREAM.UPDATE.OBJ_"+functions.ObjectsBucket)
	case "agent":
		sub.add(anyVersion(subject.Direct), anyVersion(subject.QueueHint))
		pub.add("_INBOX.>", "$JS.API.CONSUMER.INFO."+queues+".*", "$JS.API.CONSUMER.MSG.NEXT."+queues+".*", "$JS.ACK."+queues+".>")
	case "invocation":
		pub.add("$JS.API.STREAM.NAMES")
		pub.stream(queues)
		pub.add("$JS.API.STREAM.UPDATE."+queues, "$JS.API.STREAM.DELETE."+queues, "$JS.API.CONSUMER.INFO."+queues+".*", "$JS.API.CONSUMER.CREATE."+queues+".>",
			"$JS.API.CONSUMER.DURABLE.CREATE."+queues+".>")
	}
}

func anyVersion(of func(string) string) string { return strings.TrimSuffix(of("x"), "x") + "*" }

func streamOfSubject(s string) string { return event.StreamOf(strings.Split(s, ".")[1]) }

type set map[string]bool

func (s set) add(items ...string) {
	for _, i := range items {
		s[i] = true
	}
}

// stream lets a service look at a stream, and make it when it is missing; changing it is the owner's.
func (s set) stream(name string) { s.add("$JS.API.STREAM.INFO."+name, "$JS.API.STREAM.CREATE."+name) }

// objects lets a service read, write and delete the objects of a bucket that exists.
func (s set) objects(bucket string) {
	stream := "OBJ_" + bucket
	s.add("$O."+bucket+".>", "$JS.API.STREAM.INFO."+stream, "$JS.API.STREAM.PURGE."+stream, "$JS.API.STREAM.MSG.GET."+stream,
		"$JS.API.DIRECT.GET."+stream, "$JS.API.DIRECT.GET."+stream+".>", "$JS.API.CONSUMER.CREATE."+stream+".>", "$JS.API.CONSUMER.INFO."+stream+".*",
		"$JS.API.CONSUMER.DELETE."+stream+".*")
}

// consumer lets a service read a stream, which it makes when it comes first.
func (s set) consumer(stream string) {
	s.stream(stream)
	s.add("$JS.API.CONSUMER.CREATE."+stream+".>", "$JS.API.CONSUMER.INFO."+stream+".*", "$JS.API.CONSUMER.DELETE."+stream+".*",
		"$JS.API.CONSUMER.MSG.NEXT."+stream+".*", "$JS.ACK."+stream+".>")
}

func (s set) sorted() []string {
	items := make([]string, 0, len(s))
	for i := range s {
		items = append(items, i)
	}
	slices.Sort(items)
	return items
}
