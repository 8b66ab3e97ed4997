// Package contracts is what the services of Sirocco say to one another and to their clients: typed endpoints,
// events and commands, the subjects they travel on, the problem codes they answer with, and the access matrix.
//
// It holds pure data and pure functions and imports nothing but the standard library and uuid, so that everybody
// may depend on it and it depends on nobody. A reader who wants to know what a service can do reads the package
// named after it here; how it does it is the service's own business.
//
// Four kinds of message exist and are never mixed:
//
//	Request  svc.<service>.<resource>.<verb>                    one typed answer or one problem, core NATS
//	Event    evt.<domain>.<account>.<entity>.<past-tense>       an immutable fact, JetStream, kept
//	Command  cmd.<cluster>.<node>.<verb>                        exactly one executor, JetStream work queue
//	Work     inv.queue.<version>, inv.direct.<version>          one exchange for one function version
package contracts
