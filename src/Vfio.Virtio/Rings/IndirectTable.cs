namespace Vfio.Virtio;

/// <summary>A table of descriptors in the peer's memory, in either layout. All of it that a chain can reach is translated when it is
/// opened, so that the translator hears at once of all that is missing; where it does not lie together, each entry is translated again
/// when it is read, and may itself lie across two pieces.</summary>
internal unsafe ref struct IndirectTable
{
    // All pages of the largest table that a chain can use. One that is cut into smaller pieces is looked at as it is read: no peer keeps
    // the device at it for long.
    private const int MostPieces = 128;

    private readonly ulong _address;
    private readonly uint _direct;
    private readonly ulong* _host;

    private IndirectTable(ulong address, uint entries, uint direct, ulong* host)
    {
        _address = address;
        Entries = entries;
        _direct = direct;
        _host = host;
    }

    public uint Entries { get; }

    public static RingError Open<TTranslator>(
        ref TTranslator translator, ulong address, uint length, ref ChainBuilder chain, out IndirectTable table)
        where TTranslator : struct, ITranslator
    {
        table = default;
        // virtio 1.3, 2.7.5.3 "Indirect Descriptors": an array of len / 16 descriptors.
        if (length == 0 || length % Descriptor.Bytes != 0)
        {
            return RingError.IndirectLength;
        }

        if (unchecked(address + (length - 1UL)) < address)
        {
            return RingError.AddressWrap;
        }

        uint reach = (uint)Math.Min(length, (ulong)chain.MaxDescriptors * Descriptor.Bytes);
        TranslationStatus status = translator.Translate(
            new BusAddress(address), reach, DeviceAccess.Read, out HostAddress host, out uint usable);
        if (status == TranslationStatus.Miss)
        {
            chain.SetMissed();
            return RingError.None;
        }

        if (status != TranslationStatus.Translated)
        {
            return RingError.AccessDenied;
        }

        uint done = usable;
        for (int pieces = 1; done < reach && pieces < MostPieces; pieces++)
        {
            status = translator.Translate(
                new BusAddress(address + done), reach - done, DeviceAccess.Read, out _, out uint more);
            if (status == TranslationStatus.Miss)
            {
                chain.SetMissed();
                return RingError.None;
            }

            if (status != TranslationStatus.Translated || more == 0)
            {
                return RingError.AccessDenied;
            }

            done += Math.Min(more, reach - done);
        }

        table = new IndirectTable(
            address, length / Descriptor.Bytes, Math.Min(usable, reach) / Descriptor.Bytes, (ulong*)host.Value);
        return RingError.None;
    }

    /// <summary>Copies one entry, once.</summary>
    /// <param name="translator">Translates what was not translated when the table was opened.</param>
    /// <param name="index">Below <see cref="Entries"/>.</param>
    /// <param name="low">The entry's first 8 bytes.</param>
    /// <param name="high">The entry's last 8 bytes.</param>
    public readonly TranslationStatus Read<TTranslator>(
        ref TTranslator translator, uint index, out ulong low, out ulong high)
        where TTranslator : struct, ITranslator
    {
        if (index < _direct)
        {
            uint safe = Clamp.Index(index, _direct);
            // SAFETY: the translator vouched for _direct whole entries at _host. The peer may write them: each half is read once.
            low = _host[2 * safe];
            high = _host[(2 * safe) + 1];
            return TranslationStatus.Translated;
        }

        ulong* entry = stackalloc ulong[2];
        ulong address = _address + ((ulong)index * Descriptor.Bytes);
        uint done = 0;
        while (done < Descriptor.Bytes)
        {
            TranslationStatus status = translator.Translate(
                new BusAddress(address + done), Descriptor.Bytes - done, DeviceAccess.Read, out HostAddress host, out uint usable);
            if (status != TranslationStatus.Translated || usable == 0)
            {
                low = high = 0;
                return status == TranslationStatus.Miss ? status : TranslationStatus.Denied;
            }

            usable = Math.Min(usable, Descriptor.Bytes - done);
            // SAFETY: usable bytes at host are the translator's word; done + usable is at most 16.
            Buffer.MemoryCopy((void*)host.Value, (byte*)entry + done, usable, usable);
            done += usable;
        }

        low = entry[0];
        high = entry[1];
        return TranslationStatus.Translated;
    }
}
