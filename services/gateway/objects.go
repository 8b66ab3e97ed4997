package gateway

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// chunkPatience is how long a client may need for the next piece of an object, in either direction.
const chunkPatience = time.Minute

// origin is the scheme and authority that the caller wrote.
func origin(r *http.Request) string {
	scheme := "http"
	if r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https" {
		scheme = "https"
	}
	return scheme + "://" + r.Host
}

// putObject stores the bytes of an asset at a signed address, as they come.
func (g *Gateway) putObject(w http.ResponseWriter, r *http.Request) {
	id := newRequestID()
	if err := g.storeObject(w, r); err != nil {
		g.refuse(w, r, id, err)
	}
}

func (g *Gateway) storeObject(w http.ResponseWriter, r *http.Request) error {
	object, err := g.admitObject(r)
	if err != nil {
		return err
	}
	if err := matches(r.Header, object); err != nil {
		return err
	}
	if r.ContentLength > object.MaxBytes {
		return tooLarge(object)
	}
	body := &unhurried{body: http.MaxBytesReader(w, r.Body, object.MaxBytes), deadline: http.NewResponseController(w).SetReadDeadline}
	_, err = g.objects.Put(r.Context(), object.Key, body)
	var limit *http.MaxBytesError
	switch {
	case errors.As(err, &limit) || errors.As(body.err, &limit):
		return tooLarge(object)
	case errors.Is(err, bus.ErrBucketFull):
		return problem.New(problem.Unavailable, "the object store is full; delete assets, or raise SIROCCO_OBJECTS_MAX_BYTES")
	case body.err != nil:
		return problem.New(problem.BadRequest, "the body broke off: %v", body.err)
	case err != nil:
		return err
	}
	// The asset may have been deleted while its bytes came; then nobody would ever delete them.
	if _, err := g.admitObject(r); problem.HasCode(err, problem.NotFound) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), healthPatience)
		defer cancel()
		return errors.Join(err, g.objects.Delete(ctx, object.Key))
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func tooLarge(o functions.AdmittedObject) error {
	return problem.New(problem.TooLarge, "an asset has %d bytes at most", o.MaxBytes)
}

// matches holds the headers of an upload against what the asset was made with.
func matches(h http.Header, o functions.AdmittedObject) error {
	check := problem.NewCheck("request")
	check.Require(sameMedia(h.Get("Content-Type"), o.ContentType), "Content-Type", "must be the contentType that the asset was made with: %s", o.ContentType)
	check.Require(strings.TrimSpace(h.Get(functions.AssetDescription)) == o.Description, functions.AssetDescription, "must be the description that the asset was made with")
	return check.Err()
}

func sameMedia(a, b string) bool {
	if a == b {
		return true
	}
	first, p, err := mime.ParseMediaType(a)
	second, q, errB := mime.ParseMediaType(b)
	return err == nil && errB == nil && mime.FormatMediaType(first, p) == mime.FormatMediaType(second, q)
}

// getObject sends the bytes of an asset from a signed address. They are a stranger's, so no browser may show them in
// the name of this host.
func (g *Gateway) getObject(w http.ResponseWriter, r *http.Request) {
	id := newRequestID()
	object, err := g.admitObject(r)
	if err != nil {
		g.refuse(w, r, id, err)
		return
	}
	body, size, err := g.objects.Get(r.Context(), object.Key)
	if errors.Is(err, bus.ErrNoObject) {
		err = problem.New(problem.NotFound, "the bytes of this asset were not uploaded: Not found")
	}
	if err != nil {
		g.refuse(w, r, id, err)
		return
	}
	defer func() { _ = body.Close() }()
	h := w.Header()
	h.Set("Content-Type", object.ContentType)
	h.Set("Content-Length", strconv.FormatInt(size, 10))
	h.Set("Content-Disposition", "attachment")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'")
	h.Set("Cache-Control", "private, no-store")
	h.Set(functions.AssetDescription, object.Description)
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return
	}
	// What breaks off now is seen by the client as a body that is too short.
	_, _ = io.Copy(w, &unhurried{body: body, deadline: http.NewResponseController(w).SetWriteDeadline})
}

// admitObject asks the functions service whether the address of a request is good.
func (g *Gateway) admitObject(r *http.Request) (functions.AdmittedObject, error) {
	if p := pathUUIDs(r); p != nil {
		return functions.AdmittedObject{}, p
	}
	signature := r.URL.Query().Get("signature")
	if signature == "" {
		return functions.AdmittedObject{}, problem.New(problem.Forbidden, "this address is not signed; ask for one with POST /v2/nvcf/assets")
	}
	return bus.Call(r.Context(), g.conn, functions.AdmitObject, functions.AdmitObjectRequest{
		AssetID: r.PathValue("assetId"), Method: r.Method, Signature: signature,
	})
}

// unhurried moves a deadline along with each piece, and remembers how the body ended.
type unhurried struct {
	body     io.Reader
	deadline func(time.Time) error
	err      error
}

func (p *unhurried) Read(b []byte) (int, error) {
	_ = p.deadline(time.Now().Add(chunkPatience))
	n, err := p.body.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		p.err = err
	}
	return n, err
}
