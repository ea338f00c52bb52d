using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.VhostUser.Tests.Fuzz;

/// <summary>Memory of a guest that writes what it likes, where it likes, through mappings of its own. The back-end's lie between
/// pages that nobody may touch, and follow each other for the guest but not here, so that whatever crosses their border is found out;
/// pages that no translation leads to can be closed as well.</summary>
internal sealed unsafe class HostileGuest : IDisposable
{
    public const ulong First = 0x10000;
    public const ulong Length = 64 << 10;
    private const ulong Page = 4096;

    // Every fourth page can be closed; parts of rings start in others.
    private const int Closing = 4;

    private readonly FileDescriptor[] _files = [MemoryFile.Create("low", Length), MemoryFile.Create("high", Length)];
    private readonly MappedMemory[] _views;
    private readonly GuestMemoryRegion[] _regions;
    private bool _hasClosed;

    public HostileGuest()
    {
        _views = [.. _files.Select(f => MappedMemory.Map(f, 0, Length, writable: true))];
        _regions = [.. _files.Select((f, i) => GuestMemoryRegion.Map(
            new GuestPhysicalAddress(First + ((ulong)i * Length)), new FrontendAddress(First + ((ulong)i * Length)), Length, f, default))];
        Memory = GuestMemory.Of(_regions);
    }

    public GuestMemory Memory { get; }

    /// <summary>Where the parts of the present ring are, from the start of the first region.</summary>
    public (ulong Descriptors, ulong Driver, ulong Device) Ring { get; private set; }

    /// <summary>The ring as the back-end has it.</summary>
    public RingAddresses Addresses => new(
        _regions[0].Host + Ring.Descriptors, _regions[0].Host + Ring.Driver, _regions[0].Host + Ring.Device);

    /// <summary>The same ring, with its pages looked up one by one.</summary>
    public RingAddresses Scattered(int size, VirtioFeatures features)
    {
        RingAddresses ring = Addresses;
        return RingAddresses.Scattered(
            Area(ring.Descriptors, RingAddresses.DescriptorBytes(size)), Area(ring.Driver, RingAddresses.DriverBytes(size, features)),
            Area(ring.Device, RingAddresses.DeviceBytes(size, features)));

        static RingArea Area(HostAddress start, uint length) => RingArea.TryOf(new BusAddress(start.Value), [(start, length)])!;
    }

    /// <summary>Chooses a place for a ring: one part may end where the memory does.</summary>
    public void Place(Random random, int size, VirtioFeatures features, bool closes)
    {
        Close(closes);
        int atTheEnd = closes ? 3 : random.Next(4);
        Ring = (
            atTheEnd == 0 ? Length - RingAddresses.DescriptorBytes(size) : 0,
            atTheEnd == 1 ? (Length - RingAddresses.DriverBytes(size, features)) & ~3ul : 0x4000,
            atTheEnd == 2 ? (Length - RingAddresses.DeviceBytes(size, features)) & ~3ul : 0x8000);
        foreach (MappedMemory view in _views)
        {
            for (int i = 0; i < (int)Length / 16; i++)
            {
                Write(random, (ulong*)(view.Address + (i * 16)), random.Next(2) == 0, 256);
            }
        }

        // Ring indices start at 0, as a driver leaves them.
        *(uint*)(_views[0].Address + (nint)Ring.Driver) = 0;
        *(uint*)(_views[0].Address + (nint)Ring.Device) = 0;
    }

    /// <summary>The flags of most descriptors: those of a buffer that the device writes, or of one that it reads.</summary>
    public int Usual { get; set; }

    /// <summary>A few writes: descriptors, the index, entries, bytes.</summary>
    public void Change(Random random, bool packed, int size)
    {
        nint start = _views[0].Address;
        for (int i = random.Next(8); i >= 0; i--)
        {
            Write(random, (ulong*)(start + (nint)Ring.Descriptors + (random.Next(size) * 16)), packed, size);
        }

        if (!packed)
        {
            var driver = (ushort*)(start + (nint)Ring.Driver);
            int step = random.Next(16) == 0 ? random.Next(65536) : random.Next(Math.Min(size, 40) + 1);
            driver[1] = unchecked((ushort)(driver[1] + step));
            for (int i = random.Next(8); i > 0; i--)
            {
                driver[2 + random.Next(size)] = (ushort)(random.Next(16) == 0 ? random.Next(65536) : random.Next(size));
            }
        }

        Write(random, (ulong*)(_views[random.Next(2)].Address + (random.Next((int)Length / 16) * 16)), packed, size);
    }

    /// <summary>A part of the back-end's memory that is open for translations.</summary>
    public (HostAddress Host, ulong Length) Part(Random random)
    {
        int page = random.Next((int)(Length / Page));
        page -= page % Closing == Closing - 1 ? 1 : 0;
        ulong room = (ulong)(Closing - 1 - (page % Closing)) * Page;
        ulong offset = random.Next(3) == 0 ? (ulong)random.Next((int)Page) : 0;
        ulong length = random.Next(3) == 0 ? 1 + (ulong)random.NextInt64((long)(room - offset)) : room - offset;
        return (_regions[random.Next(2)].Host + ((ulong)page * Page) + offset, length);
    }

    public static ulong Address(Random random) => random.Next(16) switch
    {
        0 => (ulong)random.NextInt64(),
        1 => First + (2 * Length) - (ulong)random.Next(64),
        2 => ulong.MaxValue - (ulong)random.Next(8192),
        3 => First + Length - (ulong)random.Next(200),
        4 => First - (ulong)random.Next(64),
        _ => First + (ulong)random.Next((int)(2 * Length)),
    };

    public void Dispose()
    {
        Array.ForEach(_regions, r => r.Dispose());
        Array.ForEach(_views, v => v.Dispose());
        Array.ForEach(_files, f => f.Dispose());
    }

    private static uint Bytes(Random random) => random.Next(12) switch
    {
        0 => 0,
        1 => uint.MaxValue,
        2 => (uint)random.Next(),
        3 => (uint)random.Next(1, 20),
        4 => (uint)random.Next(1, 40) * 16,
        _ => (uint)random.Next(12, 2000),
    };

    private void Write(Random random, ulong* words, bool packed, int size)
    {
        ulong flags = (ulong)(random.Next(6) switch { 0 => 1 | Usual, 1 => random.Next(4), 2 => 4, 3 => random.Next(8), _ => Usual });
        ulong next = (ulong)(random.Next(12) == 0 ? random.Next(65536) : random.Next(size));
        ulong upper = packed
            ? Bytes(random) | (next << 32) | ((flags | (random.Next(4) == 0 ? 0x8000u : 0x80u)) << 48)
            : Bytes(random) | (flags << 32) | (next << 48);
        Volatile.Write(ref words[0], Address(random));
        Volatile.Write(ref words[1], upper);
    }

    private void Close(bool closes)
    {
        if (_hasClosed == closes)
        {
            return;
        }

        _hasClosed = closes;
        foreach (GuestMemoryRegion region in _regions)
        {
            for (ulong page = Closing - 1; page < Length / Page; page += Closing)
            {
                int protection = closes ? Mman.PROT_NONE : Mman.PROT_READ | Mman.PROT_WRITE;
                Assert.AreEqual(0, LibC.mprotect((nint)(region.Host.Value + (page * Page)), (nuint)Page, protection));
            }
        }
    }
}
