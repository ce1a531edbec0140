// The load generator for etcd in Go, which is how etcd is at its best: a goroutine for each operation in flight, and
// calls to the leader only. It takes the same order, works through the same keys and writes the same record as the
// generator in Python (load.py, loops.py), so that what is measured of both systems is computed by one program.
//
// Debian's packages build it offline: golang-go and golang-etcd-server-dev (see etcd.py).
package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/clientv3"
)

// order is what to do: load.py describes the fields.
type order struct {
	Addresses   []string `json:"addresses"` // the leader's
	Work        string   `json:"work"`
	InFlight    int      `json:"in_flight"`
	Connections int      `json:"connections"`
	ValueBytes  int      `json:"value_bytes"`
	Prefix      string   `json:"prefix"`
	ReadPrefix  string   `json:"read_prefix"`
	ReadKeys    int      `json:"read_keys"`
	MaxOps      int      `json:"max_ops"`
	WarmUp      float64  `json:"warm_up_s"`
	Seconds     float64  `json:"seconds"`
	Rate        float64  `json:"rate"` // operations a second; 0: closed loop
	Record      string   `json:"record"`
}

const (
	putsInTransaction = 64
	callTimeout       = 10 * time.Second
	longestQueue      = 200000 // of an open loop
)

type load struct {
	order
	clients        []*clientv3.Client
	value          string
	began          time.Time
	next           int64 // the number of the next operation
	stopped        int32
	starts, ends   []float64 // seconds since began, by operation; an end of 0: not acknowledged
	errors         int64
	firstError     sync.Once
	firstErrorText string
}

func main() {
	l := &load{}
	if err := json.Unmarshal([]byte(os.Args[1]), &l.order); err != nil {
		fail(err)
	}
	for i := 0; i < l.Connections; i++ {
		client, err := clientv3.New(clientv3.Config{Endpoints: l.Addresses, DialTimeout: callTimeout})
		if err != nil {
			fail(err)
		}
		defer client.Close()
		l.clients = append(l.clients, client)
	}
	l.value = strings.Repeat(l.Prefix, l.ValueBytes/len(l.Prefix)+1)[:l.ValueBytes]
	l.starts, l.ends = make([]float64, l.MaxOps), make([]float64, l.MaxOps)
	l.run()
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "etcd_load:", err)
	os.Exit(1)
}

// run makes the load, and announces on stdout when the measured part begins and ends.
func (l *load) run() {
	l.began = time.Now()
	var all sync.WaitGroup
	if l.Rate > 0 {
		all.Add(1)
		go func() { defer all.Done(); l.openLoop(&all) }()
	} else {
		for lane := 0; lane < l.InFlight; lane++ {
			all.Add(1)
			go func(lane int) { defer all.Done(); l.closedLoop(lane) }(lane)
		}
	}
	ended := make(chan struct{})
	go func() { all.Wait(); close(ended) }()
	from := l.pause(l.WarmUp, ended, "begin")
	to := l.pause(l.Seconds, ended, "end")
	atomic.StoreInt32(&l.stopped, 1)
	<-ended
	if err := l.writeRecord(); err != nil {
		fail(err)
	}
	count := atomic.LoadInt64(&l.next)
	if count > int64(l.MaxOps) {
		count = int64(l.MaxOps)
	}
	json.NewEncoder(os.Stdout).Encode(map[string]interface{}{
		"from": from, "to": to, "count": count, "errors": l.errors, "first_error": l.firstErrorText,
	})
}

// pause waits so many seconds, or until the load has ended by itself, says the word, and tells the time.
func (l *load) pause(seconds float64, ended chan struct{}, word string) float64 {
	select {
	case <-ended:
	case <-time.After(time.Duration(seconds * float64(time.Second))):
	}
	now := l.now()
	fmt.Println(word)
	return now
}

func (l *load) now() float64 { return time.Since(l.began).Seconds() }

// closedLoop keeps one operation in flight.
func (l *load) closedLoop(lane int) {
	client := l.clients[lane%len(l.clients)]
	for atomic.LoadInt32(&l.stopped) == 0 {
		i := int(atomic.AddInt64(&l.next, 1)) - 1
		if i >= l.MaxOps {
			return
		}
		l.starts[i] = l.now()
		if !l.do(client, i) {
			return
		}
	}
}

// openLoop begins operation i at its intended time i/rate, whether or not earlier ones have been answered. Latency
// counts from the intended time. Operations that can't be begun because too many wait stay unanswered: an overload.
func (l *load) openLoop(all *sync.WaitGroup) {
	queue := make(chan int, longestQueue)
	defer close(queue)
	for lane := 0; lane < l.InFlight; lane++ {
		all.Add(1)
		go func(lane int) {
			defer all.Done()
			for i := range queue {
				l.do(l.clients[lane%len(l.clients)], i)
			}
		}(lane)
	}
	for i, isLast := 0, false; !isLast; {
		isLast = atomic.LoadInt32(&l.stopped) != 0 // before the clock: what was due when the time ended begins, however late
		for due := int(l.now() * l.Rate); i < due; i++ {
			if i >= l.MaxOps {
				return
			}
			l.starts[i] = float64(i) / l.Rate
			atomic.StoreInt64(&l.next, int64(i+1))
			select {
			case queue <- i:
			default:
				atomic.AddInt64(&l.errors, 1)
			}
		}
		time.Sleep(200 * time.Microsecond)
	}
}

// do carries out operation i and notes when it was answered. Whether it was.
func (l *load) do(client *clientv3.Client, i int) bool {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	var err error
	switch {
	case l.Work == "set_txn64":
		puts := make([]clientv3.Op, putsInTransaction)
		for k := range puts {
			puts[k] = clientv3.OpPut(key(l.Prefix, i*putsInTransaction+k), l.value)
		}
		_, err = client.Txn(ctx).Then(puts...).Commit()
	case l.Work == "get" || (l.Work == "mix" && isRead(i)):
		var reply *clientv3.GetResponse
		reply, err = client.Get(ctx, key(l.ReadPrefix, readIndex(i, l.ReadKeys)))
		if err == nil && len(reply.Kvs) != 1 {
			err = fmt.Errorf("a key that was written is not there")
		}
	default:
		_, err = client.Put(ctx, key(l.Prefix, i), l.value)
	}
	if err != nil {
		atomic.AddInt64(&l.errors, 1)
		l.firstError.Do(func() { l.firstErrorText = err.Error() })
		return false
	}
	l.ends[i] = l.now()
	return true
}

// key, isRead and readIndex are as in work.py.
func key(prefix string, i int) string { return fmt.Sprintf("%s%010d", prefix, i) }

func isRead(i int) bool { return uint64(i)*2654435761>>16&1 == 1 }

func readIndex(i, count int) int { return int(uint64(i) * 7919 % uint64(count)) }

func (l *load) writeRecord() error {
	file, err := os.Create(l.Record)
	if err != nil {
		return err
	}
	defer file.Close()
	count := int(atomic.LoadInt64(&l.next))
	if count > l.MaxOps {
		count = l.MaxOps
	}
	for _, column := range [][]float64{l.starts[:count], l.ends[:count]} {
		if err := binary.Write(file, binary.LittleEndian, column); err != nil {
			return err
		}
	}
	return nil
}
