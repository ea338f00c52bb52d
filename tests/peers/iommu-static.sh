#!/bin/bash
# A guest with an IOMMU whose network card, behind vfiopin vhost-user-net on the host, is driven by vfiopin in the guest: by
# vfio-pci, over a pool that is mapped once. Frames with numbers and a pattern go round; each must come back as it was. The
# back-end asks for each piece of the pool once (IOTLB misses); after that it asks for nothing, and nothing is revoked.
#
#     tests/peers/iommu-static.sh [SECONDS]
set -euo pipefail

tree=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
"$tree/tools/install" qemu-system-x86 busybox-static cpio kmod libssl3
[[ -n ${VFIOPIN-} ]] || "$tree/tools/build"
source "$tree/tests/peers/lib/backend"
seconds=${1-20}
last=$(($(nproc) - 1))

# The card is behind a root port: on the root bus QEMU 7.2 gives it no ATS, and without that tells a back-end of no unmap.
# vectors=0: QEMU 7.2 crashes with MSI-X and vhost-user.
machine() {
    local options="-object memory-backend-memfd,id=mem,size=512M,share=on"
    options+=" -chardev socket,id=card,path=$work/card,server=on -netdev vhost-user,id=card,chardev=card"
    options+=" -device pcie-root-port,id=root0,addr=07.0,chassis=1"
    options+=" -device virtio-net-pci,bus=root0,netdev=card,mac=52:54:00:00:00:01,disable-legacy=on"
    options+=",iommu_platform=on,ats=on,vectors=0$1"
    start guest "$tree/tools/vm" --timeout 600 --memory 512 --cpus 1 --machine memory-backend=mem --append hugepages=16 \
        --qemu "$options" --add "$(dirname "$vfiopin"):/opt/vfiopin" --add "$tree/tests/peers/lib/static:/bin/static" -- \
        static "$2" "$seconds"
}

# What the back-end said while frames went round, a line each time: frames, misses, invalidations, access failures, updates. A line
# belongs to the run when frames went since the line before.
moving() {
    awk '$1 == "IOTLB:" {
        for (i = 2; i <= NF; i++) {
            if ($i ~ /^frames/) { frames = $(i - 1) }
            if ($i ~ /^misses/) { misses = $(i - 1) }
            if ($i ~ /^invalidated/) { invalidated = $(i - 1) }
            if ($i ~ /^access/) { failures = $(i - 1) }
            if ($i ~ /^updates/) { updates = $(i - 1) }
        }
        if (frames > before) { print frames, misses, invalidated, failures, updates }
        before = frames
    }' "$work/backend.log"
}

# round LABEL CARD-OPTIONS PAGES
round() {
    local label=$1 logs=("$work/guest.log" "$work/backend.log") guest backend lines half first final
    rm -f "$work/card"
    machine "$2" "$3"
    guest=$started
    start backend "$vfiopin" vhost-user-net --client --socket-path "$work/card" --forward io --cores "$last" --stats-interval 1
    backend=$started

    until_true 650 ended "$guest" || fail "$label: the guest did not end" "${logs[@]}"
    stop "$guest" TERM 5 || fail "$label: the guest ended with $?" "${logs[@]}"
    stop "$backend" TERM 20 || fail "$label: the back-end ended with $?" "${logs[@]}"

    grep -q 'AccessPlatform' "$work/guest.log" || fail "$label: the guest did not agree on ACCESS_PLATFORM" "${logs[@]}"
    grep -q 'VIRTIO_F_ACCESS_PLATFORM was negotiated' "$work/backend.log" || fail "$label: nor did the back-end" "${logs[@]}"
    grep -Eq '[1-9][0-9]* good, 0 wrong, 0 missing, 0 other' "$work/guest.log" || fail "$label: frames were not as sent" "${logs[@]}"

    # The last one may have been written while the card was given up already.
    mapfile -t lines < <(moving | head -n -1)
    ((${#lines[@]} >= 4)) || fail "$label: only ${#lines[@]} points in time with frames between" "${logs[@]}"
    # From the middle of the run to its end.
    half=$((${#lines[@]} / 2))
    read -ra first <<<"${lines[half]}"
    read -ra final <<<"${lines[-1]}"
    # A large page that the rings lie in too was asked for with them, and never missed.
    ((first[4] > 0)) || fail "$label: the back-end was never told a translation" "${logs[@]}"
    ((final[0] >= first[0] + 1000)) || fail "$label: only $((final[0] - first[0])) frames in the second half" "${logs[@]}"
    ((final[1] == first[1])) || fail "$label: misses grew from ${first[1]} to ${final[1]} with frames ${first[0]} to ${final[0]}" "${logs[@]}"
    ((final[2] == first[2])) || fail "$label: something was revoked while the pool stood" "${logs[@]}"
    ((final[3] == 0)) || fail "$label: ${final[3]} access failures" "${logs[@]}"
    say "ok  $label: $(grep -h 'good,' "$work/guest.log" | tr -d '\r')"
    say "    misses ${first[1]} at frame ${first[0]}, ${final[1]} at frame ${final[0]}; access failures ${final[3]}"
    grep -h 'front-end gone' "$work/backend.log"
}

round "split rings, pages of 4 KiB" "" 4KiB
round "packed rings, pages of 2 MiB" ,packed=on 2MiB
