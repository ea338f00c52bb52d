namespace Vfio.Virtio.Tests;

/// <summary>Bus addresses [First, First + Length) are the bytes at Host; everything else is denied. Ranges can be cut at
/// multiples of Piece, withheld (Miss) from MissFrom on, or closed to writes from ReadOnlyFrom on; and
/// each NotAtHandEach-th time in a row nothing is at hand.</summary>
internal struct PlainTranslator(ulong first, HostAddress host, ulong length) : ITranslator
{
    public ulong Piece = ulong.MaxValue;
    public ulong MissFrom = ulong.MaxValue;
    public ulong ReadOnlyFrom = ulong.MaxValue;
    public int NotAtHandEach;
    public int Misses;
    public int Found;
    private int _tries;

    public TranslationStatus Translate(
        BusAddress address, uint length1, DeviceAccess access, out HostAddress host1, out uint usable)
    {
        TranslationStatus status = Find(address, length1, access, out host1, out usable);
        Misses += status == TranslationStatus.Miss ? 1 : 0;
        Found += status == TranslationStatus.Translated ? 1 : 0;
        return status;
    }

    public void CountAtHand(int times) => Found += times;

    public bool TryTranslate(BusAddress address, uint length1, DeviceAccess access, out HostAddress host1) =>
        Find(address, length1, access, out host1, out uint usable) == TranslationStatus.Translated && usable == length1
        && (NotAtHandEach == 0 || ++_tries % NotAtHandEach != 0);

    private readonly TranslationStatus Find(
        BusAddress address, uint length1, DeviceAccess access, out HostAddress host1, out uint usable)
    {
        host1 = default;
        usable = 0;
        ulong offset = unchecked(address.Value - first);
        if (address.Value < first || offset >= length || (access == DeviceAccess.Write && address.Value >= ReadOnlyFrom))
        {
            return TranslationStatus.Denied;
        }

        if (address.Value >= MissFrom)
        {
            return TranslationStatus.Miss;
        }

        host1 = host + offset;
        usable = (uint)Math.Min(Math.Min(length1, length - offset), Piece == ulong.MaxValue ? ulong.MaxValue : Piece - (address.Value % Piece));
        return TranslationStatus.Translated;
    }
}
