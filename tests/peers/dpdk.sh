#!/bin/bash
# DPDK's front-end (virtio-user in testpmd) against vfiopin vhost-user-net: each forward mode, both ring layouts, mergeable
# buffers or not, in order or not, one and two pairs of queues, frames of 64 to 9000 bytes. Frames come from files and go to
# files, which are compared byte by byte, in order; the program's own totals are checked against them. Then either side is
# killed while frames go round, and started again.
#
#     tests/peers/dpdk.sh [SEED [PART]]     PART: only the cases whose arguments (below) have it
set -euo pipefail

tree=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
frames=$tree/tests/peers/lib/frames
"$tree/tools/install" dpdk-dev librte-meta-all perl-base
[[ -n ${VFIOPIN-} ]] || "$tree/tools/build"
source "$tree/tests/peers/lib/backend"

seed=${1-$((RANDOM * 32768 + RANDOM))}
only=${2-}
say "seed $seed"
need_pages 150
last=$(($(nproc) - 1))
cases=0

# Fewer frames than a ring has entries, even where each takes five buffers: a driver that finds its ring full drops.
for queue in 0 1; do
    "$frames" make "$work/small.$queue" 200 $((seed + queue)) 60 64 65 66 127 128 129 256 590 1024 1514 1518
    "$frames" make "$work/large.$queue" 150 $((seed + queue + 2)) 64 1518 2036 2037 2038 2048 4084 4096 4097 8191 9000
    "$frames" make "$work/none.$queue" 0 0
done

# start_frontend QUEUES MODE PORT...: testpmd, with the virtual devices in this order; neighbours feed each other.
start_frontend() {
    local queues=$1 mode=$2 arguments=() port devices=()
    shift 2
    # Without mergeable buffers a frame must fit into one; with them the largest take five.
    [[ $* != *mrg_rxbuf=0* ]] || arguments+=(--max-pkt-len=9100 --mbuf-size=9728)
    for port in "$@"; do
        devices+=(--vdev "$port")
    done
    start front-end dpdk-testpmd --lcores "0@$last,1@0" --no-pci --in-memory --single-file-segments -m 256 \
        --file-prefix "vfiopin-$$" "${devices[@]}" -- --forward-mode="$mode" --auto-start --stats-period 1 \
        --no-flush-rx --total-num-mbufs=12000 --rxq="$queues" --txq="$queues" "${arguments[@]}"
    frontend=$started
}

# files NAME KIND QUEUES: a pcap device with one file for each queue, each way.
files() {
    local text=$1 queue
    for ((queue = 0; queue < $3; queue++)); do
        text+=",rx_pcap=$work/$2.$queue"
    done
    for ((queue = 0; queue < $3; queue++)); do
        text+=",tx_pcap=$work/$1.$queue"
    done
    echo "$text"
}

size() {
    stat -c %s "$1" 2>/dev/null || echo 0
}

# arrived NAME KIND QUEUES: whether as much came out as went in, or the front-end ended.
arrived() {
    local queue
    ! ended "$frontend" || return 0
    for ((queue = 0; queue < $3; queue++)); do
        (($(size "$work/$1.$queue") >= $(size "$work/$2.$queue"))) || return 1
    done
}

# compare NAME KIND QUEUES [macswap]
compare() {
    local queue
    for ((queue = 0; queue < $3; queue++)); do
        "$frames" same "$work/$2.$queue" "$work/$1.$queue" ${4-} || fail "$label" "$work/front-end.log" "$work/backend.log"
    done
}

# as_meant OPTIONS QUEUES SESSIONS: whether it was tested what was meant to be: the layout of rings, mergeable buffers, order, pairs.
as_meant() {
    # VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MQ, VIRTIO_F_RING_PACKED, VIRTIO_F_IN_ORDER.
    # virtio-user's own choice where nothing is said: mergeable buffers, in order, split.
    local mergeable=1 several=0 packed=0 ordered=1
    [[ $1 != *mrg_rxbuf=0* ]] || mergeable=0
    [[ $1 != *packed_vq=1* ]] || packed=1
    [[ $1 != *in_order=0* ]] || ordered=0
    (($2 == 1)) || several=1
    agreed "$work/backend.log" "$3" "15=$mergeable" "22=$several" "34=$packed" "35=$ordered" \
        || fail "$label: the front-end agreed on something else" "$work/backend.log" "$work/front-end.log"
}

# finish_case OPTIONS QUEUES SESSIONS: ends both programs, and is false when the case must be run again.
finish_case() {
    stop "$frontend" INT 20 || true
    stop "$backend" TERM 20 || fail "$label: the back-end ended with $?" "$work/backend.log"
    as_meant "$@"
    if grep -q 'stopped: the driver broke it\|given up' "$work/backend.log"; then
        fail "$label: a ring stopped" "$work/backend.log" "$work/front-end.log"
    fi
    # A front-end that does not wait for its message to be read may send before its second pair of queues is enabled. What a
    # disabled ring has is dropped, by the specification (vhost-user, "Ring states").
    ! grep -q 'dropped: the ring was disabled' "$work/backend.log" || early=yes
    [[ -z $early ]]
}

# sent KIND QUEUES: "FRAMES BYTES" of the files.
sent() {
    local queue count=0 bytes=0 b n
    for ((queue = 0; queue < $2; queue++)); do
        read -r _ b n < <("$frames" size "$work/$1.$queue")
        count=$((count + n)) bytes=$((bytes + b))
    done
    echo "$count $bytes"
}

clean() {
    rm -f "$work"/net_pcap*
}

# One machine, frames back to where they came from: back MODE KIND QUEUES OPTIONS
back() {
    label="$1, one port, $2 frames, $3 pair(s)$4"
    clean
    start_backend backend 1 --forward "$1" --queues "$3" --cores "$last"
    start_frontend "$3" io "$(files net_pcap0 "$2" "$3")" "net_virtio_user0,path=$work/backend.0,queues=$3,queue_size=1024$4"
    until_true 40 arrived net_pcap0 "$2" "$3" || true
    local swap=''
    [[ $1 != macswap ]] || swap=macswap
    finish_case "$4" "$3" 1 || return 0
    compare net_pcap0 "$2" "$3" "$swap"
}

# Two machines back to back, frames both ways at once: across KIND QUEUES OPTIONS
across() {
    label="io, two ports, $1 frames, $2 pair(s)$3"
    clean
    start_backend backend 2 --forward io --queues "$2" --cores "$last"
    start_frontend "$2" io "$(files net_pcap0 "$1" "$2")" "net_virtio_user0,path=$work/backend.0,queues=$2,queue_size=1024$3" \
        "net_virtio_user1,path=$work/backend.1,queues=$2,queue_size=1024$3" "$(files net_pcap1 "$1" "$2")"
    until_true 40 arrived net_pcap0 "$1" "$2" || true
    until_true 40 arrived net_pcap1 "$1" "$2" || true
    finish_case "$3" "$2" 2 || return 0
    compare net_pcap0 "$1" "$2"
    compare net_pcap1 "$1" "$2"
}

# Frames that the back-end drops: take KIND QUEUES OPTIONS
take() {
    label="rxonly, $1 frames, $2 pair(s)$3"
    clean
    start_backend backend 1 --forward rxonly --queues "$2" --cores "$last"
    start_frontend "$2" io "$(files net_pcap0 "$1" "$2")" "net_virtio_user0,path=$work/backend.0,queues=$2,queue_size=1024$3"
    until_true 40 given "$(sent "$1" "$2")" || true
    finish_case "$3" "$2" 1 || return 0
    local expected got
    expected="$(sent "$1" "$2") 0"
    got=$(total "$work/backend.log" 'from guests')
    [[ $got == "$expected" ]] || fail "$label: frames, bytes and drops are $got, sent were $expected" "$work/backend.log"
}

# given "FRAMES BYTES": whether the front-end counted so many frames a second ago and still does.
given() {
    ! ended "$frontend" || return 0
    awk -v frames="${1% *}" '$1 == "TX-packets:" && $2 == frames { seen++ } END { exit !(seen > 1) }' "$work/front-end.log"
}

# Frames that the back-end makes: make SIZE QUEUES OPTIONS
make() {
    label="txonly, frames of $1, $2 pair(s)$3"
    clean
    start_backend backend 1 --forward txonly --frame-size "$1" --queues "$2" --cores "$last"
    start_frontend "$2" io "$(files net_pcap0 none "$2")" "net_virtio_user0,path=$work/backend.0,queues=$2,queue_size=1024$3"
    local queue
    for ((queue = 0; queue < $2; queue++)); do
        until_true 40 plenty "$work/net_pcap0.$queue" || true
    done
    finish_case "$3" "$2" 1 || return 0
    for ((queue = 0; queue < $2; queue++)); do
        plenty "$work/net_pcap0.$queue" || fail "$label: too few frames on queue $queue" "$work/front-end.log" "$work/backend.log"
        head -c 4000000 "$work/net_pcap0.$queue" >"$work/part"
        "$frames" pattern "$work/part" "$1" || fail "$label" "$work/front-end.log"
    done
}

plenty() {
    (($(size "$1") > 200000))
}

# seen: how many frames the reader has seen and found to be sent ones.
seen() {
    local last
    last=$(tail -n 1 "$work/reader.log" 2>/dev/null) || true
    [[ $last =~ ^[0-9]+$ ]] && echo "$last" || echo 0
}

# more_than N: whether it has seen more, or found one that was never sent.
more_than() {
    ended "$reader" || (($(seen) > $1))
}

# endless OPTIONS: a front-end that sends the same frames over and over, and a reader that checks each that comes back.
endless() {
    mkfifo "$work/net_pcap0.0"
    start reader "$frames" among "$work/small.0" "$work/net_pcap0.0"
    reader=$started
    start_frontend 1 io "net_pcap0,rx_pcap=$work/small.0,tx_pcap=$work/net_pcap0.0,infinite_rx=1" "net_virtio_user0,queue_size=1024,$1"
}

# flow WHEN: waits until many more frames have gone round.
flow() {
    until_true 40 more_than $(($(seen) + 50000)) && ! ended "$reader" \
        || fail "$label: $1" "$work/reader.log" "$work/front-end.log" "$work/backend.log"
}

# killed PROCESS: without warning; it has not ended before.
killed() {
    local code=0
    # The shell tells of it otherwise.
    stop "$1" KILL 10 2>/dev/null || code=$?
    ((code == 137)) || fail "$label: a program had ended by itself ($code)" "$work/front-end.log" "$work/backend.log"
}

# The front-end is killed, and another one meets the same back-end: front_again OPTIONS
front_again() {
    label="the front-end is killed and started again$1"
    clean
    start_backend backend 1 --forward io --cores "$last"
    endless "path=$work/backend.0$1"
    flow "no frames before the kill"
    killed "$frontend"
    until_true 10 ended "$reader" || fail "$label: the reader did not end"
    stop "$reader" TERM 5 || fail "$label" "$work/reader.log"
    clean
    start_frontend 1 io "$(files net_pcap0 small 1)" "net_virtio_user0,path=$work/backend.0,queue_size=1024$1"
    until_true 40 arrived net_pcap0 small 1 || true
    finish_case "$1" 1 2 || return 0
    compare net_pcap0 small 1
}

serve() {
    start backend "$vfiopin" vhost-user-net --client --socket-path "$work/server.0" --forward io --cores "$last"
    backend=$started
}

# The back-end is killed, twice, and another one connects to the same front-end: back_again OPTIONS
back_again() {
    label="the back-end is killed and started again$1"
    clean
    rm -f "$work/server.0"
    serve
    endless "path=$work/server.0,server=1$1"
    flow "no frames before the kill"
    local kill
    for kill in first second; do
        killed "$backend"
        serve
        flow "no frames after the $kill kill"
    done
    stop "$frontend" INT 20 || true
    stop "$backend" TERM 20 || fail "$label: the back-end ended with $?" "$work/backend.log"
    ! grep -q 'stopped: the driver broke it\|given up' "$work/backend.log" || fail "$label: a ring stopped" "$work/backend.log"
    # Of the last one's session: the others were killed in theirs.
    as_meant "$1" 1 1
    until_true 10 ended "$reader" || fail "$label: the reader did not end"
    stop "$reader" TERM 5 || fail "$label" "$work/reader.log"
}

# run FUNCTION ARGUMENT...: a case, again where the front-end was early.
run() {
    local attempt
    [[ "$*" == *"$only"* ]] || return 0
    for attempt in 1 2 3; do
        early=''
        "$@"
        [[ -n $early ]] || break
        say "again: $label: frames came before the ring was enabled"
    done
    [[ -z $early ]] || fail "$label: three times frames came before the ring was enabled" "$work/backend.log"
    cases=$((cases + 1))
    say "ok  $label"
}

for packed in '' ,packed_vq=1; do
    for rest in '' ,mrg_rxbuf=0 ,in_order=0 ,mrg_rxbuf=0,in_order=0; do
        run back io large 1 "$packed$rest"
    done
    run back io small 2 "$packed"
    run back macswap small 1 "$packed,in_order=0"
    run back macswap large 2 "$packed"
    run across large 1 "$packed"
    run across small 2 "$packed,mrg_rxbuf=0,in_order=0"
    run take small 1 "$packed"
    run take large 2 "$packed,in_order=0"
    run make 64 1 "$packed"
    run make 1518 2 "$packed,in_order=0"
    run make 9000 1 "$packed"
    run make 9000 1 "$packed,mrg_rxbuf=0"
    run front_again "$packed"
    run back_again "$packed"
done
say "$cases cases, seed $seed"
