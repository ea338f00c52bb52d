using Vfio.Virtio;

namespace Vfio.VhostUser.Tests;

/// <summary>What an IOTLB should answer, byte by byte, for a small window of addresses that begins at <c>origin</c>.</summary>
internal sealed class NaiveIotlb(ulong origin, int bytes)
{
    private readonly bool[] _known = new bool[bytes];
    private readonly ulong[] _host = new ulong[bytes];
    private readonly DmaAccess[] _access = new DmaAccess[bytes];

    public int Bytes => bytes;

    public IovaRange Range(int first, int length) => new(new Iova(origin + (ulong)first), new Iova(origin + (ulong)(first + length - 1)));

    public void Update(int first, int length, ulong host, DmaAccess access)
    {
        for (int i = 0; i < length; i++)
        {
            _known[first + i] = true;
            _host[first + i] = host + (ulong)i;
            _access[first + i] = access;
        }
    }

    public void Invalidate(int first, int length) => Array.Clear(_known, first, length);

    public void Forget() => Array.Clear(_known);

    public TranslationStatus Kind(Iova address, DmaAccess access)
    {
        int i = (int)(address.Value - origin);
        return !_known[i] ? TranslationStatus.Miss
            : (_access[i] & access) == access ? TranslationStatus.Translated : TranslationStatus.Denied;
    }

    public HostAddress Host(Iova address) => new(_host[(int)(address.Value - origin)]);

    public DmaAccess Access(Iova address) => _access[(int)(address.Value - origin)];

    public bool Knows(Iova address) => _known[(int)(address.Value - origin)];

    /// <summary>How few ranges can say it all.</summary>
    public int Ranges()
    {
        int count = 0;
        for (int i = 0; i < bytes; i++)
        {
            bool continues = i != 0 && _known[i - 1] && _known[i] && _access[i - 1] == _access[i]
                && (_access[i] == DmaAccess.None || _host[i - 1] + 1 == _host[i]);
            count += _known[i] && !continues ? 1 : 0;
        }

        return count;
    }
}
