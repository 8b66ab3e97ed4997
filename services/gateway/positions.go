package gateway

import "strings"

// The path of a queue position, /queues/{requestId}/position, and that of a function's queue, /queues/functions/{functionId},
// both fit /queues/functions/position, and the mux refuses two patterns of which neither is the narrower one. So the mux
// knows the position by another path, and requests for it are led there.
const (
	positionPattern = "/queues/{requestId}/position"
	positionPlace   = "/queue-positions/"
)

// muxPattern is the path by which the mux knows a route.
func muxPattern(path string) string {
	if rest, ok := strings.CutSuffix(path, positionPattern); ok {
		return rest + positionPlace + "{requestId}"
	}
	return path
}

// muxPath leads the path of a request to the mux's own one.
func muxPath(path string) string {
	rest, ok := strings.CutSuffix(path, "/position")
	if !ok {
		return path
	}
	at := strings.LastIndex(rest, "/queues/")
	if at < 0 || strings.Contains(rest[at+len("/queues/"):], "/") || at+len("/queues/") == len(rest) {
		return path
	}
	return rest[:at] + positionPlace + rest[at+len("/queues/"):]
}
