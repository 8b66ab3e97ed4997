package bus_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/contracts/subject"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/store"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

var (
	start1 = rpc.Command[text]{Verb: "start"}
	stop1  = rpc.Command[text]{Verb: "stop"}
)

// order sends commands to the node "gpu.7", whose name needs encoding.
func order(t *testing.T, c *bus.Conn, cmd rpc.Command[text], texts ...string) {
	t.Helper()
	for _, s := range texts {
		_, err := c.PublishBatch(t.Context(), []store.Message{{Subject: cmd.Subject("here", "gpu.7"), ID: s, Payload: []byte(`{"text":"` + s + `"}`)}})
		require.NoError(t, err)
	}
}

func TestOrdersComeInOrderAndAreRetried(t *testing.T) {
	t.Parallel()
	c := declared(t, connect(t, testkit.NATS(t)))
	node := bus.NewCommands(c, "here", "gpu.7")
	done := make(chan string, 16)
	tries := 0
	bus.OnCommand(node, start1, func(_ context.Context, o text) error {
		if tries++; tries < 3 {
			return errors.New("not yet")
		}
		done <- "start " + o.Text
		return nil
	})
	bus.OnCommand(node, stop1, func(_ context.Context, o text) error { done <- "stop " + o.Text; return nil })
	order(t, c, start1, "a")
	order(t, c, stop1, "b")
	require.NoError(t, node.Start(t.Context()))
	t.Cleanup(node.Stop)
	require.Equal(t, "start a", next(t, done))
	require.Equal(t, "stop b", next(t, done), "a later order waits for an earlier one that is retried")
	emptied(t, c, "CMD")
}

func TestOrderThatNeverSucceedsBecomesADeadLetter(t *testing.T) {
	t.Parallel()
	c := declared(t, connect(t, testkit.NATS(t)))
	node := bus.NewCommands(c, "here", "gpu.7")
	tries := make(chan struct{}, 16)
	done := make(chan string, 1)
	bus.OnCommand(node, start1, func(context.Context, text) error { tries <- struct{}{}; panic("no such image") })
	bus.OnCommand(node, stop1, func(_ context.Context, o text) error { done <- o.Text; return nil })
	require.NoError(t, node.Start(t.Context()))
	t.Cleanup(node.Stop)
	order(t, c, start1, "a")
	order(t, c, rpc.Command[text]{Verb: "dance"}, "b")
	order(t, c, stop1, "c")
	require.Equal(t, "c", next(t, done))
	require.Len(t, tries, 5)
	dead := stored(t, c, "DLQ")
	require.Len(t, dead, 2)
	require.Equal(t, subject.DeadLetter(start1.Subject("here", "gpu.7")), dead[0].Subject)
	require.Contains(t, dead[0].Header.Get("Sirocco-Reason"), "no such image")
	require.Contains(t, dead[1].Header.Get("Sirocco-Reason"), "no handler")
}

func TestOrderInHandWhenTheNodeDiesComesAgainFirst(t *testing.T) {
	t.Parallel()
	nats := testkit.NATS(t)
	c := declared(t, connect(t, nats))
	order(t, c, start1, "a", "b", "c")
	doomed := connect(t, nats)
	node := bus.NewCommands(doomed, "here", "gpu.7")
	done := make(chan string, 16)
	bus.OnCommand(node, start1, func(_ context.Context, o text) error {
		doomed.NATS().Close()
		done <- o.Text
		return nil
	})
	require.NoError(t, node.Start(t.Context()))
	require.Equal(t, "a", next(t, done))
	node.Stop()

	again := bus.NewCommands(connect(t, nats), "here", "gpu.7")
	bus.OnCommand(again, start1, func(_ context.Context, o text) error { done <- o.Text; return nil })
	require.NoError(t, again.Start(t.Context()))
	t.Cleanup(again.Stop)
	require.Equal(t, []string{"a", "b", "c"}, []string{next(t, done), next(t, done), next(t, done)})
}

func TestOrdersOfAnotherNodeAreNotOurs(t *testing.T) {
	t.Parallel()
	c := declared(t, connect(t, testkit.NATS(t)))
	other := bus.NewCommands(c, "here", "gpu")
	bus.OnCommand(other, start1, func(context.Context, text) error { t.Error("an order went to the wrong node"); return nil })
	require.NoError(t, other.Start(t.Context()))
	t.Cleanup(other.Stop)
	mine := bus.NewCommands(c, "here", "gpu.7")
	done := make(chan string, 1)
	bus.OnCommand(mine, start1, func(_ context.Context, o text) error { done <- o.Text; return nil })
	require.NoError(t, mine.Start(t.Context()))
	t.Cleanup(mine.Stop)
	order(t, c, start1, "a")
	require.Equal(t, "a", next(t, done))
}
