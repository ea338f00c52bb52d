namespace Vfio.Linux.Tests;

[TestClass]
public sealed unsafe class CacheLinesTests
{
    // It is called with addresses that a hostile peer has a say in.
    [TestMethod]
    public void Any_address_may_be_fetched_and_nothing_is_changed()
    {
        using var memory = MappedMemory.Anonymous(1 << 16);
        var bytes = new Span<byte>((void*)memory.Address, 1 << 16);
        bytes.Fill(0x5A);
        CacheLines lines = default;
        lines.Add((void*)memory.Address, 100_000);
        lines.Add(null, 64);
        lines.Add((void*)nuint.MaxValue, 64);
        lines.Add((void*)0x8000_0000_0000_0000ul, 64);
        lines.Fetch();
        lines.Fetch();
        Assert.AreEqual(-1, bytes.IndexOfAnyExcept((byte)0x5A));
    }
}
