/* The floor under vfiopin's pinning: VFIO_IOMMU_MAP_DMA called straight from C, page by page and as one range.
 *
 *   pin-raw /dev/vfio/GROUP
 *
 * Reads lines of a cell each, a backing (4k, thp, hugetlb) and a number of pages, and answers with the same and two medians in
 * ns: of mapping the pages one by one (or - where that is left out), and of mapping them with one call. `Vfio.Benchmarks map
 * DEVICE` answers the same lines, so that both are measured in turn, cell by cell, on the second processor, while nothing else
 * starts or ends.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/memfd.h>
#include <linux/vfio.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, HUGE = 2 << 20, REGION = 64 << 20, REPEATS = 21, REPEATS_ONE_BY_ONE = 3, REPEATS_LARGE = 9 };
static const unsigned long long IOVA = 0x10000000ull;
static int container;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void map(char *address, unsigned long long iova, unsigned long size)
{
    struct vfio_iommu_type1_dma_map m = { .argsz = sizeof m, .flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
                                          .vaddr = (unsigned long)address, .iova = iova, .size = size };
    if (ioctl(container, VFIO_IOMMU_MAP_DMA, &m)) fail("VFIO_IOMMU_MAP_DMA");
}

static void unmap(unsigned long long iova, unsigned long size)
{
    struct vfio_iommu_type1_dma_unmap u = { .argsz = sizeof u, .iova = iova, .size = size };
    if (ioctl(container, VFIO_IOMMU_UNMAP_DMA, &u) || u.size != size) fail("VFIO_IOMMU_UNMAP_DMA");
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int n)
{
    qsort(values, n, sizeof *values, ascending);
    return values[n / 2];
}

static void cell(const char *backing, char *memory, int pages)
{
    double single[REPEATS], range[REPEATS];
    int once = pages == 1 ? REPEATS : pages <= 512 ? REPEATS_ONE_BY_ONE : 0;
    /* Enough that the first ones, slower after the other program's turn, are not the median. */
    int repeats = pages <= 512 ? REPEATS : REPEATS_LARGE;
    for (int r = 0; r < once; r++) {
        double begin = now();
        for (int i = 0; i < pages; i++) map(memory + (long)i * PAGE, IOVA + (long)i * PAGE, PAGE);
        single[r] = now() - begin;
        for (int i = 0; i < pages; i++) unmap(IOVA + (long)i * PAGE, PAGE);
    }
    for (int r = 0; r < repeats; r++) {
        double begin = now();
        map(memory, IOVA, (long)pages * PAGE);
        range[r] = now() - begin;
        unmap(IOVA, (long)pages * PAGE);
    }
    if (once) printf("%s %d %.0f %.0f\n", backing, pages, median(single, once), median(range, repeats));
    else printf("%s %d - %.0f\n", backing, pages, median(range, repeats));
}

static char *region(int kind)
{
    static char *regions[3];
    if (!regions[kind]) {
        int file = kind == 2 ? memfd_create("pin-raw", MFD_HUGETLB | MFD_HUGE_2MB) : -1;
        if (kind == 2 && (file < 0 || ftruncate(file, REGION + HUGE))) fail("memfd_create");
        char *raw = mmap(NULL, REGION + HUGE, PROT_READ | PROT_WRITE,
                         kind == 2 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, file, 0);
        if (raw == MAP_FAILED) fail("mmap");
        regions[kind] = (char *)(((unsigned long)raw + HUGE - 1) & ~(HUGE - 1ul));
        if (kind != 2) madvise(regions[kind], REGION, kind == 1 ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
        memset(regions[kind], 1, REGION);
    }
    return regions[kind];
}

int main(int argc, char **argv)
{
    static const char *backings[] = { "4k", "thp", "hugetlb" };
    char backing[16];
    int pages;
    if (argc != 2) {
        fprintf(stderr, "usage: pin-raw /dev/vfio/GROUP\n");
        return 2;
    }
    cpu_set_t measured;
    CPU_ZERO(&measured);
    CPU_SET(1, &measured);
    if (sched_setaffinity(0, sizeof measured, &measured)) fail("sched_setaffinity");
    container = open("/dev/vfio/vfio", O_RDWR);
    int group = open(argv[1], O_RDWR);
    if (container < 0 || group < 0 || ioctl(group, VFIO_GROUP_SET_CONTAINER, &container)
        || ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU)) fail("open VFIO");
    while (scanf("%15s %d", backing, &pages) == 2) {
        for (int kind = 0; kind < 3; kind++) {
            if (!strcmp(backings[kind], backing)) cell(backing, region(kind), pages);
        }
        fflush(stdout);
    }
    return 0;
}
