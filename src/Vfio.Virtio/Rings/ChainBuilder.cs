using Vfio.Linux;

namespace Vfio.Virtio;

/// <summary>Gathers one chain's segments while its descriptors are walked, in either layout, and holds every chain to the rules
/// that do not depend on the layout.</summary>
internal unsafe ref struct ChainBuilder(Span<HostSegment> segments, int first, DeviceQueue queue)
{
    // virtio 1.3, 2.7.5.2 "Driver Requirements: The Virtqueue Descriptor Table": at most 2^32 bytes in total.
    private const ulong MaxBytes = 1UL << 32;

    private readonly Span<HostSegment> _segments = segments;
    private readonly int _first = first;
    private readonly int _size = queue.Size;
    private readonly BufferUse _use = queue.Use;
    private readonly uint _payloadOffset = (uint)queue.PayloadOffset;
    private int _count;
    private int _readable;
    private int _descriptors;
    private ulong _readableLength;
    private ulong _writableLength;

    /// <summary>A translation is not known yet. The walk goes on, so that the translator hears of all that is missing.</summary>
    public bool Missed { get; private set; }

    /// <summary>Descriptors that a chain has at most.</summary>
    public readonly int MaxDescriptors => _size;

    /// <summary>Places of the batch's segments that it takes, missing ones included.</summary>
    public readonly int Count => _count;

    public void SetMissed() => Missed = true;

    /// <summary>Whether all of it is device-readable.</summary>
    public readonly bool IsOnlyRead => _use == BufferUse.OnlyReads;

    public readonly DescriptorChain Build(ushort id, ushort slots, ushort position) =>
        new(id, slots, new ChainPlace(position, (ushort)_first), (ushort)_readable, (ushort)_count, _readableLength, _writableLength);

    /// <summary>Adds one data descriptor.</summary>
    public RingError Append<TTranslator>(ref TTranslator translator, ulong address, uint length, bool writable)
        where TTranslator : struct, ITranslator
    {
        // virtio 1.3, 2.7.5.3.1 and 2.8.19: a chain is no longer than the queue. Ends every loop of descriptors.
        if (++_descriptors > _size)
        {
            return RingError.ChainTooLong;
        }

        if (_use != BufferUse.Both && writable != (_use == BufferUse.OnlyWrites))
        {
            return writable ? RingError.NotReadable : RingError.NotWritable;
        }

        if (length == 0)
        {
            return RingError.ZeroLength;
        }

        if (unchecked(address + (length - 1UL)) < address)
        {
            return RingError.AddressWrap;
        }

        if (_readableLength + _writableLength + length > MaxBytes)
        {
            return RingError.ChainTooLarge;
        }

        // virtio 1.3, 2.7.4.2 "Driver Requirements: Message Framing": device-writable after all device-readable.
        if (!writable && _writableLength != 0)
        {
            return RingError.ReadableAfterWritable;
        }

        RingError error = AddSegments(ref translator, address, length, writable ? DeviceAccess.Write : DeviceAccess.Read);
        if (error != RingError.None)
        {
            return error;
        }

        if (writable)
        {
            _writableLength += length;
        }
        else
        {
            _readableLength += length;
            _readable = _count;
        }

        return RingError.None;
    }

    private RingError AddSegments<TTranslator>(
        ref TTranslator translator, ulong address, uint length, DeviceAccess access)
        where TTranslator : struct, ITranslator
    {
        // The end does not move: each turn takes at least a byte off the front, and the segments bound the turns.
        while (length != 0)
        {
            TranslationStatus status =
                translator.Translate(new BusAddress(address), length, access, out HostAddress host, out uint usable);
            if (status != TranslationStatus.Miss && (status != TranslationStatus.Translated || usable == 0))
            {
                return RingError.AccessDenied;
            }

            if (_first + _count >= _segments.Length)
            {
                return RingError.TooManySegments;
            }

            if (status == TranslationStatus.Miss)
            {
                // Takes a place like any other: else nothing bounds a batch of chains that lead nowhere.
                _count++;
                Missed = true;
                return RingError.None;
            }

            usable = Math.Min(usable, length);
            if (access == DeviceAccess.Read)
            {
                // As for the chains of one buffer: on its way before the batch's first is waited for.
                // SAFETY: a hint, nothing is read.
                CacheLines.Prefetch((void*)(host.Value + (_count == 0 && usable > _payloadOffset ? _payloadOffset : 0)));
            }

            _segments[_first + _count++] = new HostSegment(host, usable);
            length -= usable;
            address = unchecked(address + usable);
        }

        return RingError.None;
    }
}
