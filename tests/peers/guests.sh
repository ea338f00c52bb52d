#!/bin/bash
# Two Linux guests back to back through vfiopin vhost-user-net, with their kernel's own virtio-net driver: ping, and a bulk
# transfer whose SHA-256 is compared, with split rings and with packed rings, and with both behind the guest's own IOMMU, which
# it maps and unmaps for each frame. With split rings the back-end is killed in the middle of the transfer and started again.
# With packed rings not: there QEMU 7.2 neither knows where the dead back-end was in the ring nor keeps an inflight region for
# a network card, so nobody can go on.
#
#     tests/peers/guests.sh [MIB]
set -euo pipefail

tree=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
"$tree/tools/install" qemu-system-x86 busybox-static cpio kmod libssl3
[[ -n ${VFIOPIN-} ]] || "$tree/tools/build"
source "$tree/tests/peers/lib/backend"
mib=${1-96}
last=$(($(nproc) - 1))

# machine N ROLE OPTIONS: a guest on $work/card.N. QEMU listens and waits for the back-end, and again when it went away.
# vectors=0: QEMU 7.2 crashes with MSI-X and vhost-user. Behind a root port: a virtio card on the root bus has no ATS in QEMU, and
# without it QEMU 7.2 tells nobody of translations that came and went between two flushes of the guest's.
machine() {
    local options="-object memory-backend-memfd,id=mem,size=512M,share=on"
    options+=" -chardev socket,id=card,path=$work/card.$1,server=on"
    options+=" -netdev vhost-user,id=card,chardev=card"
    options+=" -device pcie-root-port,id=root0,addr=07.0,chassis=1"
    options+=" -device virtio-net-pci,bus=root0,netdev=card,mac=52:54:00:00:00:0$1,disable-legacy=on,vectors=0$3"
    start "guest-$1" "$tree/tools/vm" --timeout 240 --memory 512 --cpus 1 --machine memory-backend=mem \
        --qemu "$options" --add "$tree/tests/peers/lib/guest:/bin/guest" -- \
        guest "10.0.0.$1" "10.0.0.$((3 - $1))" "$2" "$4"
}

serve() {
    start backend "$vfiopin" vhost-user-net --client \
        --socket-path "$work/card.1" --socket-path "$work/card.2" --forward io --cores "$last"
    backend=$started
}

half() {
    ended "$sender" || grep -q "^half" "$work/guest-1.log"
}

# restart LABEL: killed without warning, and started again while bytes are on their way.
restart() {
    local code=0
    stop "$backend" KILL 10 || code=$?
    ((code == 137)) || fail "$1: the back-end had ended by itself ($code)" "${logs[@]}"
    ! grep -q "^sum" "$work/guest-2.log" || fail "$1: the transfer was over before the restart" "${logs[@]}"
    serve
}

# pair LABEL MIB OPTIONS [restart]
pair() {
    local label=$1 mib=$2 sum first after least
    shift
    rm -f "$work"/card.*
    machine 1 send "$2" "$mib"
    sender=$started
    machine 2 receive "$2" "$mib"
    local receiver=$started
    serve
    logs=("$work/guest-1.log" "$work/guest-2.log" "$work/backend.log")

    until_true 180 half || fail "$label: no half of the transfer in 180 s" "${logs[@]}"
    ! ended "$sender" || fail "$label: the sender ended" "${logs[@]}"
    if [[ ${3-} == restart ]]; then
        restart "$label"
    fi

    until_true 200 ended "$sender" || fail "$label: the sender did not end" "${logs[@]}"
    until_true 60 ended "$receiver" || fail "$label: the receiver did not end" "${logs[@]}"
    stop "$sender" TERM 5 || fail "$label: the sender ended with $?" "${logs[@]}"
    stop "$receiver" TERM 5 || fail "$label: the receiver ended with $?" "${logs[@]}"
    stop "$backend" TERM 20 || fail "$label: the back-end ended with $?" "${logs[@]}"

    sum=$(awk '$1 == "sum" { print $2 }' "$work/guest-2.log" | tr -d '\r')
    first=$(awk '$1 == "sum" { print $2 }' "$work/guest-1.log" | tr -d '\r')
    [[ -n $sum && $sum == "$first" ]] || fail "$label: sent $first, arrived $sum" "${logs[@]}"
    read -r _ after _ < <(total "$work/backend.log" 'from guests')
    [[ ${3-} == restart ]] && least=$((mib << 17)) || least=$((mib << 20))
    ((after > least)) || fail "$label: only $after bytes went through the last back-end" "${logs[@]}"
    as_meant "$label" "$2"
    say "ok  $label: $mib MiB, sum $sum${3:+, $after bytes after the restart}"
    grep -h 'packets\|round-trip\|features' "$work/guest-1.log"
    [[ $2 != *iommu_platform=on* ]] || translated "$label"
}

# as_meant LABEL OPTIONS: whether it was tested what was meant to be. VIRTIO_NET_F_MRG_RXBUF, VIRTIO_F_ACCESS_PLATFORM,
# VIRTIO_F_RING_PACKED; the guest's driver agreed on what it shows, and the back-end took it.
as_meant() {
    local iommu=0 packed=0 guest bits rule
    [[ $2 != *iommu_platform=on* ]] || iommu=1
    [[ $2 != *packed=on* ]] || packed=1
    for guest in 1 2; do
        bits=$(tr -d '\r' <"$work/guest-$guest.log" | awk '$1 == "card" { print $4 }')
        for rule in 15=1 "33=$iommu" "34=$packed"; do
            [[ ${bits:${rule%=*}:1} == "${rule#*=}" ]] \
                || fail "$1: guest $guest has features $bits: bit ${rule%=*} is not ${rule#*=}" "${logs[@]}"
        done
    done
    agreed "$work/backend.log" 2 15=1 "33=$iommu" "34=$packed" || fail "$1: the back-end took something else" "${logs[@]}"
}

# Both cards' addresses were the guests' IOMMUs', were looked up and revoked, and never used as they must not be.
translated() {
    local counters="VIRTIO_F_ACCESS_PLATFORM was negotiated: IotlbCounters .*Misses = [1-9].*AccessFailures = 0,.*Invalidated = [1-9]"
    (($(grep -c "$counters" "$work/backend.log") == 2)) || fail "$1: not translated, not revoked, or against the rules" "${logs[@]}"
    grep -ho 'IotlbCounters.*' "$work/backend.log"
}

pair "split rings" "$mib" "" restart
pair "packed rings" "$mib" ,packed=on
pair "split rings behind an IOMMU" "$((mib / 12))" ,iommu_platform=on,ats=on restart
pair "packed rings behind an IOMMU" "$((mib / 12))" ,iommu_platform=on,ats=on,packed=on
