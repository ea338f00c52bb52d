using Vfio.Linux;

namespace Vfio.Tests;

[TestClass]
public sealed class PopulateTests
{
    private const ulong Page = PinRig.Page;
    private const ulong Piece = 32 << 20;

    private static readonly PinOptions BestEffort = new() { Policy = PinPolicy.BestEffort };

    [TestMethod]
    [DataRow(1)]
    [DataRow(3)]
    public void As_many_threads_populate_as_were_chosen_and_all_of_it_is_reported(int threads)
    {
        var kernel = new QuietKernel();
        using var descriptor = new FileDescriptor(kernel, 3);
        // No machine's limits: this user's own may be lower than what is populated.
        var pinner = new Pinner(new Type1Iommu(kernel, descriptor), new Sysfs("/nowhere"));
        using MappedMemory memory = MappedMemory.Anonymous((ulong)threads * Piece);
        using var meeting = new Meeting(threads);
        var range = PinRig.ReadWrite(HostRange.Of(new HostAddress((ulong)memory.Address), memory.Length));
        pinner.Register(range, new PinOptions { PopulateThreads = threads, Progress = meeting }).Dispose();
        Assert.AreEqual((threads, memory.Length, memory.Length), (meeting.Threads, meeting.Done, meeting.Total));
    }

    [TestMethod]
    public void A_pool_grows_by_its_own_threads_or_by_those_that_are_named()
    {
        using var meeting = new Meeting(1);
        var options = new PinnedPoolOptions
        {
            Name = "test",
            Size = 2 * Piece,
            Backings = [MemoryBacking.Pages4KiB],
            PopulateThreads = 1,
            Progress = meeting,
        };
        using PinnedPool pool = PinnedPool.Create(options);
        Assert.AreEqual((1, 2 * Piece), (meeting.Threads, meeting.Done));
        pool.Grow(2 * Piece);
        Assert.AreEqual(1, meeting.Threads);
        using var other = new Meeting(2);
        pool.Grow(2 * Piece, other, populateThreads: 2);
        Assert.AreEqual((2, 2 * Piece), (other.Threads, other.Done));
    }

    [TestMethod]
    public void What_could_not_be_populated_is_told_with_its_cause_and_mapping_says_which_pages_of_it()
    {
        using var rig = new PinRig();
        // A file of half the length: what lies behind its end cannot be had.
        using FileDescriptor file = MemoryFile.Create("short", 4 * Page);
        using MappedMemory half = MappedMemory.Map(file, 0, 8 * Page, writable: true);
        HostRange bad = HostRange.Of(new HostAddress((ulong)half.Address), half.Length);
        HostRange good = rig.Memory(4);
        foreach (PinRange[] ranges in new PinRange[][] { [PinRig.ReadWrite(bad)], [PinRig.ReadWrite(good), PinRig.ReadWrite(bad)] })
        {
            using (RegisteredMemory registered = rig.Pinner.Register(ranges, BestEffort))
            {
                Assert.IsTrue(registered.PopulateFailures.All(f => f.Errno == Errno.EFAULT && bad.Contains(f.Host)), "only of that range");
                PopulateFailure failure = registered.PopulateFailures.Single(f => f.Host.Contains(bad.Last));
                Assert.Contains("behind the end of its file", failure.Cause);
                Assert.IsNotEmpty(failure.Cure);
                Assert.AreEqual(4 * Page, registered.Failures.Aggregate(0ul, (sum, f) => sum + f.Host.Length));
                Assert.IsTrue(registered.Failures.All(f => f.Host.First >= bad.First + (4 * Page)));
            }

            LinuxException e = Assert.ThrowsExactly<LinuxException>(() => rig.Pinner.Register(ranges));
            Assert.Contains((bad.First + (4 * Page)).ToString(), e.Message);
            Assert.Contains("populating had failed before: ", e.Message);
            Assert.Contains("EFAULT (14): a page of it cannot be had", e.Message);
            rig.AssertNothingPinned();
        }

        using RegisteredMemory whole = rig.Pinner.Register(PinRig.ReadWrite(good));
        Assert.IsEmpty(whole.PopulateFailures);
    }

    /// <summary>Counts the threads that report, each of which waits until all that are expected have come.</summary>
    private sealed class Meeting(int expected) : IProgress<PopulateProgress>, IDisposable
    {
        private readonly HashSet<int> _threads = [];
        private readonly ManualResetEventSlim _complete = new();

        public int Threads => _threads.Count;

        public ulong Done { get; private set; }

        public ulong Total { get; private set; }

        public void Report(PopulateProgress value)
        {
            lock (_threads)
            {
                _threads.Add(Environment.CurrentManagedThreadId);
                Done = Math.Max(Done, value.Done);
                Total = value.Total;
                if (_threads.Count >= expected)
                {
                    _complete.Set();
                }
            }

            // One thread too few leaves those that came alone, and the count tells it.
            _complete.Wait(TimeSpan.FromSeconds(20));
        }

        public void Dispose() => _complete.Dispose();
    }
}
