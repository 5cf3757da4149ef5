#!/usr/bin/env bash
# h2spec against the proxy, plain and over TLS; compares the number of cases passed with tests/ratchet/h2spec.txt.
# Usage: h2spec.sh PROXY [--update]
set -euo pipefail
proxy=$(realpath "$1")
cd "$(dirname "$0")/../.."
list=$PWD/tests/ratchet/h2spec.txt
dir=$(mktemp -d)
pid=
trap '[ -n "$pid" ] && kill "$pid" 2>/dev/null; rm -rf "$dir"' EXIT
free_port() { python3 -c 'import socket; s=socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
plain=$(free_port) tls=$(free_port) admin=$(free_port)
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$dir/key.pem" -out "$dir/cert.pem" \
  -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost 2>/dev/null
hcm() {
  cat <<YAML
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: $1
          codec_type: HTTP2
          route_config: {name: r, virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: "/"}, direct_response: {status: 200, body: {inline_string: "hello from the proxy"}}}]}]}
          # The whole request is read before it is answered, so that what h2spec breaks late is seen.
          http_filters:
          - name: envoy.filters.http.buffer
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer, max_request_bytes: 1000000}
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
YAML
}
{
  echo "node: {id: h2spec, cluster: h2spec}"
  echo "admin: {address: {socket_address: {address: 127.0.0.1, port_value: $admin}}}"
  echo "static_resources:"
  echo "  listeners:"
  echo "  - name: plain"
  echo "    address: {socket_address: {address: 127.0.0.1, port_value: $plain}}"
  echo "    filter_chains:"
  echo "    - filters:"
  hcm plain
  echo "  - name: tls"
  echo "    address: {socket_address: {address: 127.0.0.1, port_value: $tls}}"
  echo "    filter_chains:"
  echo "    - transport_socket: {name: tls, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, common_tls_context: {alpn_protocols: [h2], tls_certificates: [{certificate_chain: {filename: $dir/cert.pem}, private_key: {filename: $dir/key.pem}}]}}}"
  echo "      filters:"
  hcm tls
} > "$dir/bootstrap.yaml"
"$proxy" -c "$dir/bootstrap.yaml" --workers 1 > "$dir/log" 2>&1 &
pid=$!
for _ in $(seq 100); do curl -fs "http://127.0.0.1:$admin/ready" >/dev/null && break; sleep 0.1; done
failed=0
for mode in plain tls; do
  flags=(-h 127.0.0.1 -o 2)
  if [ $mode = plain ]; then flags+=(-p "$plain"); else flags+=(-p "$tls" -t -k); fi
  want=$(sed -n "s/^$mode //p" "$list" 2>/dev/null || true)
  # Its cases have time limits of their own: a busy machine gets three tries.
  for _ in 1 2 3; do
    h2spec "${flags[@]}" > "$dir/$mode.out" 2>&1 || true
    passed=$(sed -n 's/^[0-9]* tests, \([0-9]*\) passed.*/\1/p' "$dir/$mode.out" | tail -1)
    [ "${passed:-0}" = "${want:-none}" ] && break
  done
  echo "h2spec $mode: ${passed:-0} passed (listed: ${want:-none})"
  grep -A400 '^Failures:' "$dir/$mode.out" | grep -E '×|using source' | head -40 || true
  if [ "${2:-}" = --update ]; then
    [ $mode = plain ] && : > "$list"
    echo "$mode ${passed:-0}" >> "$list"
  elif [ "${passed:-0}" != "${want:-none}" ]; then
    failed=1
  fi
done
kill -0 "$pid" || { echo "the proxy ended:"; tail -5 "$dir/log"; failed=1; }
exit $failed
