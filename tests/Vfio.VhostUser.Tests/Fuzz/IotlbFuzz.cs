namespace Vfio.VhostUser.Tests.Fuzz;

/// <summary>An IOTLB that is told and untold random things, all of which lead into pages that are open, and a sender that loses
/// questions.</summary>
internal sealed class IotlbFuzz : IDisposable
{
    private readonly HostileGuest _guest;
    private readonly DeviceIotlb _table;
    private readonly Random _sending;

    public IotlbFuzz(HostileGuest guest, Random random)
    {
        _guest = guest;
        // No time-out: what was asked may be asked again in the next batch.
        _table = new DeviceIotlb(random.Next(1, 65), TimeSpan.Zero);
        _sending = new Random(random.Next());
        View = new IotlbView(_table, questions => _sending.Next(4) == 0 ? _sending.Next(questions.Length + 1) : questions.Length);
        for (int i = random.Next(80); i > 0; i--)
        {
            Change(random);
        }
    }

    public IotlbView View { get; }

    public void Change(Random random)
    {
        ulong address = random.Next(3) == 0
            ? HostileGuest.Address(random) : HostileGuest.First + ((ulong)random.Next((int)(2 * HostileGuest.Length / 4096)) * 4096);
        (HostAddress host, ulong length) = _guest.Part(random);
        length = Math.Min(length - 1, ulong.MaxValue - address);
        var range = new IovaRange(new Iova(address), new Iova(address + length));
        switch (random.Next(12))
        {
            case 0:
                _table.Invalidate(range);
                break;
            case 1 when random.Next(8) == 0:
                _table.Invalidate(new IovaRange(new Iova(0), new Iova(ulong.MaxValue)));
                break;
            case 2 when random.Next(8) == 0:
                _table.Update(new IotlbRange(new IovaRange(new Iova(0), new Iova(ulong.MaxValue)), default, DmaAccess.None));
                break;
            case 3:
                _table.Update(new IotlbRange(range, default, DmaAccess.None));
                break;
            default:
                _table.Update(new IotlbRange(range, host, (DmaAccess)random.Next(1, 4)));
                break;
        }
    }

    public void Dispose() => View.Dispose();
}
