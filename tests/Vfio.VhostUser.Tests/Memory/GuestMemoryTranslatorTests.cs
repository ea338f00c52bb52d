using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.VhostUser.Tests;

[TestClass]
public sealed class GuestMemoryTranslatorTests : IDisposable
{
    private const ulong Bytes = 0x1_0000;
    private static readonly GuestPhysicalAddress[] Starts = [new(0), new(0xfffc_0000), new(0x1_0000_0000)];

    private readonly FileDescriptor _file = MemoryFile.Create("guest", 3 * Bytes);
    private readonly GuestMemoryRegion[] _regions;

    public GuestMemoryTranslatorTests() => _regions = [.. Starts.Select((start, i) => GuestMemoryRegion.Map(
        start, new FrontendAddress(0x7000_0000 + ((ulong)i * Bytes)), Bytes, _file, new FileOffset((ulong)i * Bytes)))];

    public void Dispose()
    {
        Array.ForEach(_regions, r => r.Dispose());
        _file.Dispose();
    }

    [TestMethod]
    public void Nothing_is_at_hand_at_first_and_the_last_two_regions_are_then()
    {
        var translator = new GuestMemoryTranslator(GuestMemory.Of(_regions));
        Assert.IsFalse(translator.TryTranslate(At(0, 0), 1, DeviceAccess.Read, out _));
        Find(ref translator, 0);
        Find(ref translator, 2);
        AssertAtHand(ref translator, 0);
        AssertAtHand(ref translator, 2);
        Assert.IsFalse(translator.TryTranslate(At(1, 0), 1, DeviceAccess.Read, out _), "the one between was never looked for");

        Find(ref translator, 1);
        AssertAtHand(ref translator, 1);
        AssertAtHand(ref translator, 2);
    }

    [TestMethod]
    public void What_is_beyond_a_region_is_neither_at_hand_nor_translated()
    {
        var translator = new GuestMemoryTranslator(GuestMemory.Of(_regions));
        Find(ref translator, 0);
        Assert.IsFalse(translator.TryTranslate(At(0, Bytes - 1), 2, DeviceAccess.Write, out _));
        Assert.AreEqual(
            TranslationStatus.Translated, translator.Translate(At(0, Bytes - 1), 2, DeviceAccess.Write, out HostAddress host, out uint usable));
        Assert.AreEqual(_regions[0].Host + (Bytes - 1), host);
        Assert.AreEqual(1u, usable);
        Assert.AreEqual(TranslationStatus.Denied, translator.Translate(At(0, Bytes), 1, DeviceAccess.Write, out _, out _));
    }

    private static BusAddress At(int region, ulong offset) => new(Starts[region].Value + offset);

    private void Find(ref GuestMemoryTranslator translator, int region)
    {
        Assert.AreEqual(
            TranslationStatus.Translated, translator.Translate(At(region, 8), 16, DeviceAccess.Read, out HostAddress host, out uint usable));
        Assert.AreEqual(_regions[region].Host + 8, host);
        Assert.AreEqual(16u, usable);
    }

    private void AssertAtHand(ref GuestMemoryTranslator translator, int region)
    {
        Assert.IsTrue(translator.TryTranslate(At(region, 100), 50, DeviceAccess.Read, out HostAddress host));
        Assert.AreEqual(_regions[region].Host + 100, host);
    }
}
