using Vfio.Virtio;

namespace Vfio.Service;

/// <summary>A network card in use for one call: taken from others, driven over memory of a pool. Ending it resets the card before
/// the memory goes back to the pool.</summary>
internal sealed class CardSession : IDisposable
{
    private const ulong TwoMiB = 2ul << 20;

    private readonly DeviceLoan _loan;
    private PinnedBuffer _arena;

    private CardSession(DeviceLoan loan) => _loan = loan;

    public VirtioNetDevice Card { get; private set; } = null!;

    /// <summary>The pool's name, or null for one made for the call.</summary>
    public string? PoolName => _loan.PoolName;

    /// <summary>Whether the card did what it should up to the end; else nobody knows what it wrote.</summary>
    public bool EndedWell
    {
        get => _loan.EndedWell;
        set => _loan.EndedWell = value;
    }

    public static CardSession Open(Engine engine, CardRequest request, OperationContext context)
    {
        var options = new VirtioNetOptions { QueueSize = request.QueueSize, BufferBytes = request.BufferSize };
        // Whole huge pages, so that the pool can be made of them.
        ulong size = ((ulong)options.ArenaBytes + TwoMiB - 1) / TwoMiB * TwoMiB;
        var ifNone = new PoolRequest("net", size) { PageSizes = request.PageSizes };
        var session = new CardSession(DeviceLoan.Open(engine, "net", request.Device, request.Pool, ifNone, context));
        try
        {
            session.Start(options);
            return session;
        }
        catch
        {
            session.Dispose();
            throw;
        }
    }

    public void Dispose() => _loan.Dispose();

    private void Start(VirtioNetOptions options)
    {
        _arena = _loan.Allocate(options.ArenaBytes);
        _loan.Track(_arena.Slice(0, options.RingBytes), _arena.Slice(options.RingBytes, _arena.Length - options.RingBytes));
        Action<IovaRange>? mark = _loan.Memory.Dirty is null ? null : MarkWritten;
        Card = VirtioNetDevice.Open(_loan.Device, _arena, options with { DeviceWrote = mark, DriverSent = mark });
        _loan.Defer(Card.Dispose);
    }

    private void MarkWritten(IovaRange range) =>
        _loan.Memory.Dirty!.Written(_arena.Slice((int)(range.First - _arena.Iova), (int)range.Length));
}
