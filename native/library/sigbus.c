/*
 * A peer's memory is a file of the peer's. Where it is not sealed the peer can shrink it, and a pool of huge pages can run
 * out: the next access to such a page is a SIGBUS, which the .NET runtime answers by ending the process. Here the mapping that
 * was hit is replaced by private memory of zeroes, its peer's counter is raised and the peer's connection is shut down; the
 * instruction is then repeated and goes on. Whoever owns the connection ends the session. A SIGBUS anywhere else goes to the
 * handler that was there before, as if this one were not.
 *
 * The whole mapping is replaced and not the page alone: each page on its own would split the mapping, and a process may have
 * only so many (vm.max_map_count). It also means that nothing more reaches the peer.
 *
 * What runs in the handler: atomics, mmap(2), shutdown(2). No lock, no allocation, nothing of the runtime's.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>

#define EXPORT __attribute__((visibility("default")))
#define RANGES_PER_BLOCK 128

/* One peer: read and freed by the caller, who removes its ranges first. */
struct vfiopin_peer {
    _Atomic uint64_t losses;
    int connection;
};

/*
 * A change of a range makes its sequence odd first and even last; a reader that saw it odd, or changed, skips the range. It
 * may: the range that a fault lies in does not change during the fault, as its owner unmaps nothing that a thread may touch.
 */
struct range {
    _Atomic uint64_t sequence;
    _Atomic uintptr_t first;
    _Atomic uintptr_t end;
    _Atomic uintptr_t page;
    _Atomic(struct vfiopin_peer *) peer;
};

/* Never freed: a handler may be in it. */
struct block {
    struct range ranges[RANGES_PER_BLOCK];
    _Atomic(struct block *) next;
};

static struct block first_block;
static pthread_mutex_t changing = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction previous;
static bool installed;

static bool read_range(struct range *range, uintptr_t address, uintptr_t *first, uintptr_t *end, uintptr_t *page,
                       struct vfiopin_peer **peer)
{
    uint64_t before = atomic_load_explicit(&range->sequence, memory_order_acquire);
    *first = atomic_load_explicit(&range->first, memory_order_relaxed);
    *end = atomic_load_explicit(&range->end, memory_order_relaxed);
    *page = atomic_load_explicit(&range->page, memory_order_relaxed);
    *peer = atomic_load_explicit(&range->peer, memory_order_relaxed);
    atomic_thread_fence(memory_order_acquire);
    return before % 2 == 0 && before == atomic_load_explicit(&range->sequence, memory_order_relaxed)
        && address >= *first && address < *end;
}

static bool replace(uintptr_t address)
{
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;

    for (struct block *block = &first_block; block; block = atomic_load_explicit(&block->next, memory_order_acquire)) {
        for (int i = 0; i < RANGES_PER_BLOCK; i++) {
            uintptr_t first, end, page;
            struct vfiopin_peer *peer;

            if (!read_range(&block->ranges[i], address, &first, &end, &page, &peer))
                continue;
            /* Before the zeroes can be read: whoever acts on them can know what they are. */
            atomic_fetch_add_explicit(&peer->losses, 1, memory_order_seq_cst);
            if (mmap((void *)first, end - first, PROT_READ | PROT_WRITE, flags, -1, 0) == MAP_FAILED) {
                /* Under vm.overcommit_memory=2 all of it may be too much. The page, which may be a huge one, is needed whole. */
                uintptr_t at = address & ~(page - 1);

                if (mmap((void *)at, page, PROT_READ | PROT_WRITE, flags, -1, 0) == MAP_FAILED)
                    return false;
            }
            if (peer->connection >= 0)
                shutdown(peer->connection, SHUT_RDWR);
            return true;
        }
    }
    return false;
}

static void on_sigbus(int signal, siginfo_t *info, void *context)
{
    int error = errno;

    if (info->si_code == BUS_ADRERR && replace((uintptr_t)info->si_addr)) {
        errno = error;
        return;
    }
    errno = error;
    if (previous.sa_flags & SA_SIGINFO) {
        previous.sa_sigaction(signal, info, context);
    } else if (previous.sa_handler == SIG_DFL || previous.sa_handler == SIG_IGN) {
        struct sigaction standard = { .sa_handler = SIG_DFL };

        /* A fault comes again when this returns; a signal that was sent does not. Neither is ignored by the kernel's rules. */
        if (info->si_code > 0 || previous.sa_handler == SIG_DFL)
            sigaction(SIGBUS, &standard, NULL);
        if (info->si_code <= 0 && previous.sa_handler == SIG_DFL)
            raise(SIGBUS);
    } else {
        previous.sa_handler(signal);
    }
}

static int install(void)
{
    struct sigaction action = { .sa_sigaction = on_sigbus };

    if (installed)
        return 0;
    if (sigaction(SIGBUS, NULL, &previous) < 0)
        return -errno;
    /* On the stack and with the mask that the previous handler wants, as it is called from this one. */
    action.sa_flags = (previous.sa_flags & (SA_ONSTACK | SA_NODEFER | SA_RESTART)) | SA_SIGINFO;
    action.sa_mask = previous.sa_mask;
    if (sigaction(SIGBUS, &action, NULL) < 0)
        return -errno;
    installed = true;
    return 0;
}

static struct range *free_range(void)
{
    struct block *block = &first_block;

    for (;;) {
        struct block *next;

        for (int i = 0; i < RANGES_PER_BLOCK; i++)
            if (atomic_load_explicit(&block->ranges[i].end, memory_order_relaxed) == 0)
                return &block->ranges[i];
        next = atomic_load_explicit(&block->next, memory_order_relaxed);
        if (!next) {
            next = calloc(1, sizeof(*next));
            if (!next)
                return NULL;
            atomic_store_explicit(&block->next, next, memory_order_release);
        }
        block = next;
    }
}

static void change(struct range *range, uintptr_t first, uintptr_t end, uintptr_t page, struct vfiopin_peer *peer)
{
    uint64_t sequence = atomic_load_explicit(&range->sequence, memory_order_relaxed);

    atomic_store_explicit(&range->sequence, sequence + 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    atomic_store_explicit(&range->first, first, memory_order_relaxed);
    atomic_store_explicit(&range->end, end, memory_order_relaxed);
    atomic_store_explicit(&range->page, page, memory_order_relaxed);
    atomic_store_explicit(&range->peer, peer, memory_order_relaxed);
    atomic_store_explicit(&range->sequence, sequence + 2, memory_order_release);
}

/* Watches whole pages of a mapping. Before anybody touches it. 0, or a negative errno. */
EXPORT int vfiopin_sigbus_add(uintptr_t first, uintptr_t length, uintptr_t page, struct vfiopin_peer *peer, void **range)
{
    int result;

    pthread_mutex_lock(&changing);
    result = install();
    if (result == 0) {
        struct range *found = free_range();

        if (found)
            change(found, first, first + length, page, peer);
        else
            result = -ENOMEM;
        *range = found;
    }
    pthread_mutex_unlock(&changing);
    return result;
}

/* Ends that. Once nobody touches the mapping, before it is unmapped. */
EXPORT void vfiopin_sigbus_remove(void *range)
{
    pthread_mutex_lock(&changing);
    change(range, 0, 0, 0, NULL);
    pthread_mutex_unlock(&changing);
}
