using System.Diagnostics;
using Vfio.Virtio;

namespace Vfio.Service;

/// <summary>Moves frames in and out of one network card, until it is time to end.</summary>
internal sealed class CardForwarder
{
    private const int Burst = 32;
    private const int PollsBetweenLooks = 64;

    // Frames on their way and back: fewer than the receive queue has buffers for, so that none is lost for want of one.
    private const int EchoWindow = 128;

    // What has not come back by then does not come any more, and a card that has not sent by then does not send.
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(2);

    // Each look at the card's status is a register access, which is slow in a virtual machine.
    private static readonly TimeSpan LookInterval = TimeSpan.FromMilliseconds(100);

    private readonly VirtioNetDevice _card;
    private readonly CardRequest _request;
    private readonly NetBuffer[] _incoming;
    private readonly MacAddress _source;

    // Received or made, and not taken by the card yet.
    private readonly NetBuffer[] _outgoing;
    private int _first;
    private int _count;
    private ulong _nextNumber;
    private long _givenUp;
    private long _lastReturn;
    private long _lastLook;

    public CardForwarder(VirtioNetDevice card, CardRequest request)
    {
        _card = card;
        _request = request;
        _incoming = new NetBuffer[Math.Max(Burst, card.Info.MaxPieces)];
        _outgoing = new NetBuffer[_incoming.Length];
        // A card without an address gets a locally administered one.
        _source = card.Info.Mac ?? new MacAddress(0x02_00_00_00_00_02);
        Check = request.Mode is CardMode.RxOnly or CardMode.Echo ? new FrameCheck() : null;
        if (request.Mode == CardMode.Echo)
        {
            Check!.Expect(0);
        }
    }

    /// <summary>What became of test frames; null where the mode does not look at them.</summary>
    public FrameCheck? Check { get; }

    private bool MakesFrames => _request.Mode is CardMode.TxOnly or CardMode.Echo;

    private long InFlight => Check is null ? 0 : (long)_nextNumber - Check.Good - Check.Wrong - _givenUp;

    private int Window => Math.Min(EchoWindow, _card.Info.ReceiveQueueSize / 2);

    /// <summary>Runs until the time is over, the count is reached, or it is cancelled.</summary>
    public void Run(CancellationToken cancellation)
    {
        long start = Stopwatch.GetTimestamp();
        _lastReturn = _lastLook = start;
        int polls = 0;
        while (!IsCountReached)
        {
            bool any = PollOnce();
            if (!any || ++polls % PollsBetweenLooks == 0)
            {
                polls = 0;
                if (cancellation.IsCancellationRequested
                    || (_request.Duration is { } seconds && Stopwatch.GetElapsedTime(start).TotalSeconds >= seconds))
                {
                    break;
                }

                Look();
                _ = any || Thread.Yield();
            }
        }

        Drain();
        if (_request.Mode == CardMode.Echo)
        {
            Check!.EndAt(_nextNumber);
        }
    }

    private bool IsCountReached => _request.Count is { } count
        && (MakesFrames ? _card.Counters.Sent >= count : _card.Counters.Received >= count) && _count == 0;

    private bool PollOnce() => _request.Mode switch
    {
        CardMode.RxOnly => Receive(),
        CardMode.TxOnly => Send() | Receive(),
        CardMode.Echo => Send() | Receive(),
        _ => Forward(),
    };

    private bool Receive()
    {
        int count = _card.Receive(_incoming);
        if (count == 0)
        {
            return false;
        }

        Check?.Look(_incoming.AsSpan(0, count));
        _card.Free(_incoming.AsSpan(0, count));
        _lastReturn = Stopwatch.GetTimestamp();
        return true;
    }

    private bool Send()
    {
        if (_count == 0)
        {
            Make();
        }

        return SendOn();
    }

    private void Make()
    {
        long wanted = Burst;
        wanted = _request.Count is { } count ? Math.Min(wanted, count - (long)_nextNumber) : wanted;
        wanted = _request.Mode == CardMode.Echo ? Math.Min(wanted, Window - InFlight) : wanted;
        if (wanted <= 0)
        {
            return;
        }

        _first = 0;
        _count = _card.Allocate(_outgoing.AsSpan(0, (int)wanted));
        foreach (ref NetBuffer frame in _outgoing.AsSpan(0, _count))
        {
            frame = frame.WithLength(_request.FrameSize);
            NumberedFrames.Fill(frame.Span, _nextNumber++, _source);
        }
    }

    private bool Forward()
    {
        bool any = false;
        if (_count == 0)
        {
            _first = 0;
            _count = _card.Receive(_outgoing);
            any = _count != 0;
            if (_request.Mode == CardMode.MacSwap)
            {
                Swap(_outgoing.AsSpan(0, _count));
            }
        }

        return SendOn() | any;
    }

    private bool SendOn()
    {
        int sent = _card.Send(_outgoing.AsSpan(_first, _count));
        _first += sent;
        _count -= sent;
        return sent != 0;
    }

    private static void Swap(Span<NetBuffer> frames)
    {
        bool begins = true;
        foreach (ref readonly NetBuffer piece in frames)
        {
            // A device may cut the first piece shorter than the addresses; such a frame goes on as it is.
            if (begins && piece.Length >= 2 * MacAddress.Bytes)
            {
                Span<byte> bytes = piece.Span;
                MacAddress destination = MacAddress.Read(bytes);
                MacAddress.Read(bytes[MacAddress.Bytes..]).Write(bytes);
                destination.Write(bytes[MacAddress.Bytes..]);
            }

            begins = !piece.Continues;
        }
    }

    private void Look()
    {
        if (Stopwatch.GetElapsedTime(_lastLook) < LookInterval)
        {
            return;
        }

        _lastLook = Stopwatch.GetTimestamp();
        _card.CheckHealth();
        if (_request.Mode == CardMode.Echo && InFlight > 0 && Stopwatch.GetElapsedTime(_lastReturn) > Patience)
        {
            _givenUp += InFlight;
            _lastReturn = _lastLook;
        }
    }

    // What was begun comes to its end, so that both sides count the same.
    private void Drain()
    {
        long start = Stopwatch.GetTimestamp();
        _lastReturn = start;
        while ((_count != 0 || _card.CountUnsent() != 0 || (_request.Mode == CardMode.Echo && InFlight > 0))
            && Stopwatch.GetElapsedTime(_lastReturn) < Patience)
        {
            bool any = SendOn();
            any |= (MakesFrames || _request.Mode == CardMode.RxOnly) && Receive();
            _ = any || Thread.Yield();
        }
    }
}
