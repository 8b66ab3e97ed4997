// Package libs is the home of mechanisms without domain knowledge: app (wiring), bus (NATS), store (Postgres), relay
// (an HTTP exchange over NATS), health, testkit. Nothing here knows what a function is.
package libs
