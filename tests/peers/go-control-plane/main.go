// A management server made of go-control-plane's snapshot cache, driven over standard input.
//
// Each line is a JSON object: {"version": "1", "resources": {"<type URL>": [<resource as protobuf JSON>, ...]}, "ttl_ms": 0}
// replaces the snapshot of the one node; {"report": true} asks what the client has done. Each line is answered with one line.
// It serves the aggregated stream and a stream for each type, state of the world and delta, with TLS where a certificate is
// given.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	clusterservice "github.com/envoyproxy/go-control-plane/envoy/service/cluster/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	endpointservice "github.com/envoyproxy/go-control-plane/envoy/service/endpoint/v3"
	extensionservice "github.com/envoyproxy/go-control-plane/envoy/service/extension/v3"
	listenerservice "github.com/envoyproxy/go-control-plane/envoy/service/listener/v3"
	routeservice "github.com/envoyproxy/go-control-plane/envoy/service/route/v3"
	runtimeservice "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	secretservice "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoregistry"

	// Messages that stand in `typed_config`.
	_ "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/on_demand/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
)

// How often a resource with a time to live is confirmed.
const heartbeat = 300 * time.Millisecond

// The one node: whatever it calls itself.
type anyNode struct{}

func (anyNode) ID(*core.Node) string { return "node" }

// What the client has done.
type report struct {
	mutex sync.Mutex
	Nacks []string `json:"nacks"`
	// Streams opened, by type URL; the aggregated stream has none.
	Streams map[string]int `json:"streams"`
	// Versions that a client told when it began a delta stream, counted by type URL.
	Initial map[string]int `json:"initial"`
}

func (r *report) opened(typeURL string) error {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.Streams[typeURL]++
	return nil
}

func (r *report) refused(typeURL, message string) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.Nacks = append(r.Nacks, typeURL+": "+message)
}

func (r *report) callbacks() server.Callbacks {
	return server.CallbackFuncs{
		StreamOpenFunc:      func(_ context.Context, _ int64, typeURL string) error { return r.opened(typeURL) },
		DeltaStreamOpenFunc: func(_ context.Context, _ int64, typeURL string) error { return r.opened(typeURL) },
		StreamRequestFunc: func(_ int64, request *discovery.DiscoveryRequest) error {
			if request.ErrorDetail != nil {
				r.refused(request.TypeUrl, request.ErrorDetail.Message)
			}
			return nil
		},
		StreamDeltaRequestFunc: func(_ int64, request *discovery.DeltaDiscoveryRequest) error {
			if request.ErrorDetail != nil {
				r.refused(request.TypeUrl, request.ErrorDetail.Message)
			}
			r.mutex.Lock()
			defer r.mutex.Unlock()
			r.Initial[request.TypeUrl] += len(request.InitialResourceVersions)
			return nil
		},
	}
}

type command struct {
	Version   string                       `json:"version"`
	Resources map[string][]json.RawMessage `json:"resources"`
	TTLMillis int                          `json:"ttl_ms"`
	Report    bool                         `json:"report"`
}

func (c *command) snapshot() (*cache.Snapshot, error) {
	all := map[resource.Type][]types.ResourceWithTTL{}
	for typeURL, list := range c.Resources {
		for _, text := range list {
			kind, err := protoregistry.GlobalTypes.FindMessageByURL(typeURL)
			if err != nil {
				return nil, err
			}
			message := kind.New().Interface()
			if err := protojson.Unmarshal(text, message); err != nil {
				return nil, fmt.Errorf("%s: %w", typeURL, err)
			}
			item := types.ResourceWithTTL{Resource: message.(types.Resource)}
			// The runtime layer alone: nothing hangs on it.
			if c.TTLMillis > 0 && typeURL == resource.RuntimeType {
				ttl := time.Duration(c.TTLMillis) * time.Millisecond
				item.TTL = &ttl
			}
			all[typeURL] = append(all[typeURL], item)
		}
	}
	return cache.NewSnapshotWithTTLs(c.Version, all)
}

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address")
	ads := flag.Bool("ads", true, "answer for all resources asked for at once, as on the aggregated stream")
	beat := flag.Bool("heartbeat", true, "confirm resources that have a time to live")
	cert := flag.String("cert", "", "certificate of the server; none: no TLS")
	key := flag.String("key", "", "its key")
	flag.Parse()
	if err := run(*listen, *ads, *beat, *cert, *key); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(listen string, ads, beat bool, cert, key string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	snapshots := cache.NewSnapshotCache(ads, anyNode{}, nil)
	if beat {
		snapshots = cache.NewSnapshotCacheWithHeartbeating(ctx, ads, anyNode{}, nil, heartbeat)
	}
	seen := &report{Nacks: []string{}, Streams: map[string]int{}, Initial: map[string]int{}}
	var options []grpc.ServerOption
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return err
		}
		options = append(options, grpc.Creds(credentials.NewServerTLSFromCert(&pair)))
	}
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	grpcServer := grpc.NewServer(options...)
	register(grpcServer, server.NewServer(ctx, snapshots, seen.callbacks()))
	go func() {
		if err := grpcServer.Serve(listener); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}()
	return obey(ctx, snapshots, seen)
}

func register(grpcServer *grpc.Server, all server.Server) {
	discovery.RegisterAggregatedDiscoveryServiceServer(grpcServer, all)
	clusterservice.RegisterClusterDiscoveryServiceServer(grpcServer, all)
	endpointservice.RegisterEndpointDiscoveryServiceServer(grpcServer, all)
	extensionservice.RegisterExtensionConfigDiscoveryServiceServer(grpcServer, all)
	listenerservice.RegisterListenerDiscoveryServiceServer(grpcServer, all)
	routeservice.RegisterRouteDiscoveryServiceServer(grpcServer, all)
	routeservice.RegisterScopedRoutesDiscoveryServiceServer(grpcServer, all)
	routeservice.RegisterVirtualHostDiscoveryServiceServer(grpcServer, all)
	runtimeservice.RegisterRuntimeDiscoveryServiceServer(grpcServer, all)
	secretservice.RegisterSecretDiscoveryServiceServer(grpcServer, all)
}

// Reads commands until the test closes standard input.
func obey(ctx context.Context, snapshots cache.SnapshotCache, seen *report) error {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var c command
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			return err
		}
		if c.Report {
			seen.mutex.Lock()
			answer, err := json.Marshal(seen)
			seen.mutex.Unlock()
			if err != nil {
				return err
			}
			fmt.Println(string(answer))
			continue
		}
		snapshot, err := c.snapshot()
		if err != nil {
			return err
		}
		if err := snapshots.SetSnapshot(ctx, "node", snapshot); err != nil {
			return err
		}
		fmt.Println(`{"ok":true}`)
	}
	return lines.Err()
}

