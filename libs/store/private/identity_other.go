//go:build unix && !linux

package private

import (
	"context"
	"errors"
)

func namespaced(context.Context, string) (identity, error) {
	return identity{}, errors.New("user namespaces need Linux")
}
