namespace Vfio.Tests;

[TestClass]
public sealed class LiveMappingsTests
{
    // The kernel has mapped it by then: there must be nothing left that can fail.
    [TestMethod]
    public void Noting_a_mapping_down_and_striking_it_out_allocates_nothing_once_there_is_room()
    {
        const int Entries = 2000;
        var live = new LiveMappings();
        long allocated = 0;
        for (int i = 0; i < Entries; i++)
        {
            // Upwards, and between what is there.
            var host = new HostAddress(0x1000_0000UL + ((ulong)(i * 37 % Entries) * 4096));
            live.Reserve();
            long before = GC.GetAllocatedBytesForCurrentThread();
            Assert.IsTrue(live.IsFree(HostRange.Of(host, 4096), out LiveMappings.Place place));
            live.InsertAfter(place, new LiveMapping { Host = host, Length = 4096, References = 1 });
            allocated += GC.GetAllocatedBytesForCurrentThread() - before;
        }

        Assert.AreEqual((Entries, 0L), (live.Count, allocated));
        long removing = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < Entries; i++)
        {
            _ = live.TryFind(new HostAddress(0x1000_0000UL + ((ulong)i * 4096)), out LiveMappings.Place place);
            live.Remove(place);
        }

        Assert.AreEqual((0, 0L), (live.Count, GC.GetAllocatedBytesForCurrentThread() - removing));
    }
}
