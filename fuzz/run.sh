#!/usr/bin/env bash
# Runs every fuzz target (or those named) for some seconds each, two at a time, from the corpora that are kept here. What it finds on
# the way goes into fuzz/target; an input that fails stays in fuzz/artifacts.
# Usage: run.sh SECONDS [TARGET...]    Needs cargo-fuzz and a C++ compiler.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=$1
shift
[ $# -gt 0 ] || set -- $(cargo fuzz list)
# No sanitizer: there is no unsafe code of ours to watch, and so the stable compiler will do.
cargo fuzz build --sanitizer none --release
programs=fuzz/target/$(rustc -vV | sed -n 's/^host: //p')/release
run() {
  mkdir -p "fuzz/target/found/$1" "fuzz/artifacts/$1" "fuzz/corpus/$1"
  "$programs/$1" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -max_len=16384 -verbosity=0 -print_final_stats=1 \
    -artifact_prefix="fuzz/artifacts/$1/" "fuzz/target/found/$1" "fuzz/corpus/$1" >"fuzz/target/$1.log" 2>&1 || {
    echo "$1: FAILED"
    tail -40 "fuzz/target/$1.log"
    return 1
  }
  echo "$1: clean, $(sed -n 's/^stat::number_of_executed_units: *//p' "fuzz/target/$1.log") inputs in $seconds s"
}
failed=0
while [ $# -gt 0 ]; do
  run "$1" & first=$!
  shift
  if [ $# -gt 0 ]; then run "$1" || failed=1; shift; fi
  wait "$first" || failed=1
done
exit "$failed"
