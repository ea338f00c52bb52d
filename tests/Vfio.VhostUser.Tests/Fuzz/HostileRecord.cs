using System.Runtime.CompilerServices;
using Vfio.Linux;

namespace Vfio.VhostUser.Tests.Fuzz;

/// <summary>A record of what is in flight that says what it likes, and ends where its mapping does.</summary>
internal sealed unsafe class HostileRecord : IDisposable
{
    private const ulong FileBytes = 64 << 10;

    private readonly FileDescriptor _file = MemoryFile.Create("record", FileBytes);
    private readonly MappedMemory _view;
    private InflightBuffer? _buffer;
    private ulong _offset;
    private ulong _length;

    public HostileRecord() => _view = MappedMemory.Map(_file, 0, FileBytes, writable: true);

    /// <summary>The record of ring 0 or 1, with a content that is partly right.</summary>
    public InflightRecord Make(Random random, int index, int size, bool packed)
    {
        _buffer?.Dispose();
        var description = new InflightDescription { QueueCount = 2, QueueSize = (ushort)size };
        int region = packed
            ? Unsafe.SizeOf<PackedInflight.Header>() + (size * Unsafe.SizeOf<PackedInflight.Entry>())
            : Unsafe.SizeOf<SplitInflight.Header>() + (size * Unsafe.SizeOf<SplitInflight.Entry>());
        _length = 2 * (((ulong)region + 63) & ~63ul);
        _offset = FileBytes - _length;
        description.MmapSize = _length;
        description.MmapOffset = _offset;
        _buffer = InflightBuffer.Map(_file, description, packed);
        var words = new Span<ushort>((void*)(_view.Address + (nint)_offset), (int)_length / sizeof(ushort));
        for (int i = 0; i < words.Length; i++)
        {
            words[i] = Word(random, size);
        }

        for (ulong start = 0; start < _length; start += _length / 2)
        {
            byte* header = (byte*)_view.Address + _offset + start;
            *(ushort*)(header + 8) = (ushort)(random.Next(8) == 0 ? random.Next(3) : 1);
            *(ushort*)(header + 10) = (ushort)(random.Next(8) == 0 ? random.Next(65536) : size);
            for (int field = 12; field < (packed ? 22 : 16); field += 2)
            {
                *(ushort*)(header + field) = (ushort)(random.Next(6) == 0 ? random.Next(65536) : field >= 20 ? random.Next(2) * 257 : random.Next(size));
            }

            if (packed && random.Next(2) == 0)
            {
                Plausible(random, (PackedInflight.Header*)header, size);
            }
        }

        return _buffer.RecordFor(index, size, packed)!;
    }

    /// <summary>Changes it under the reader.</summary>
    public void Change(Random random, int size)
    {
        if (_length != 0)
        {
            ((ushort*)(_view.Address + (nint)_offset))[random.Next((int)_length / sizeof(ushort))] = Word(random, size);
        }
    }

    public void Dispose()
    {
        _buffer?.Dispose();
        _view.Dispose();
        _file.Dispose();
    }

    private static ushort Word(Random random, int size) => random.Next(5) switch
    {
        0 => (ushort)random.Next(65536),
        1 => 1,
        2 => 0,
        _ => (ushort)random.Next(size + 1),
    };

    // All entries free or in flight once, as a dead back-end leaves it, with one thing wrong now and then.
    private static void Plausible(Random random, PackedInflight.Header* header, int size)
    {
        var entries = (PackedInflight.Entry*)(header + 1);
        int inflight = random.Next(Math.Min(size, 20) + 1);
        for (int i = 0; i < size; i++)
        {
            entries[i] = new PackedInflight.Entry { Next = (ushort)(i + 1), Address = HostileGuest.Address(random), Length = (uint)random.Next(3000) };
        }

        for (int head = 0; head < inflight;)
        {
            int count = random.Next(1, Math.Min(4, inflight - head) + 1);
            entries[head].Inflight = 1;
            entries[head].Count = (ushort)count;
            entries[head].Counter = (ulong)random.Next(100);
            entries[head].Last = (ushort)(head + count - 1);
            for (int i = 0; i < count; i++)
            {
                entries[head + i].Flags = (ushort)(i == count - 1 || random.Next(8) == 0 ? 0 : 1);
            }

            head += count;
        }

        *header = new PackedInflight.Header
        {
            Version = 1,
            Count = (ushort)size,
            FreeHead = (ushort)inflight,
            OldFreeHead = (ushort)inflight,
        };
        if (random.Next(3) == 0)
        {
            entries[random.Next(size)].Next = (ushort)random.Next(65536);
        }
    }
}
