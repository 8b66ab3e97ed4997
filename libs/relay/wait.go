package relay

import "context"

// Wait waits until the response has begun. Unlike that of [Exchange.Response], the end of ctx leaves the exchange as it
// is: it may be waited for again, detached, or cancelled.
func (ex *Exchange) Wait(ctx context.Context) error {
	return ex.await(ctx, func() (bool, error) {
		if ex.response != nil {
			return true, nil
		}
		return ex.err != nil, ex.err
	})
}
