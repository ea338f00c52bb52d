using System.Runtime.CompilerServices;
using System.Runtime.ExceptionServices;
using System.Runtime.InteropServices;
using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.VhostUser;

/// <summary>One connection of a front-end: receives each message, has it checked and applied, acknowledges it. It touches no ring itself.
/// A request that cannot be granted is answered with non-zero where the front-end asked for an answer, and ends the session
/// where it did not: the front-end would go on believing it.</summary>
/// <remarks>One thread runs it. <see cref="Close"/> from any thread ends it.</remarks>
public sealed class VhostUserSession : IDisposable
{
    // Acknowledgements that one message to the socket holds.
    private const int MostOwed = 128;

    // Messages that a poller takes before it goes back to its rings.
    private const int PollersMost = 64;

    private static readonly ulong[] Success = new ulong[MostOwed];

    private readonly MessageChannel _channel;
    private readonly Action<string> _log;
    private readonly PeerMappings _mappings;
    private readonly MemoryTable _memory;
    private readonly SessionIotlb _iotlb;
    private readonly VringTable _rings;
    private readonly SessionTurn _turn;
    private readonly SessionRequests _requests;
    private ExceptionDispatchInfo? _failureOfPoller;
    private int _owed;

    /// <summary>Takes a connection.</summary>
    /// <param name="socket">The connection; owned from now on.</param>
    /// <param name="device">The device to serve it with.</param>
    /// <param name="log">Takes a line for each thing worth one.</param>
    /// <param name="limits">How much the front-end's memory may take; null for <see cref="MappingLimits.Peer"/>.</param>
    /// <exception cref="LinuxException">There are no more descriptors; the socket is closed.</exception>
    public VhostUserSession(UnixSocket socket, IVhostUserDevice device, Action<string> log, MappingLimits? limits = null)
    {
        ArgumentNullException.ThrowIfNull(socket);
        ArgumentNullException.ThrowIfNull(device);
        _channel = new MessageChannel(socket);
        try
        {
            _turn = new SessionTurn(socket.Descriptor, TakeAnswers);
            _mappings = new PeerMappings(socket, limits);
        }
        catch
        {
            _turn?.Dispose();
            _channel.Dispose();
            throw;
        }

        _memory = new MemoryTable(_mappings);
        _log = log;
        _iotlb = new SessionIotlb(device);
        _rings = new VringTable(device, _iotlb, _mappings, log) { Answers = _turn };
        _requests = new SessionRequests(_channel, device, _memory, _iotlb, _rings, log);
    }

    /// <summary>Messages that were received whole.</summary>
    public long Messages { get; private set; }

    /// <summary>Those of them that a poller took, which waited for a translation.</summary>
    public long MessagesOfPollers { get; private set; }

    /// <summary>Messages that were refused.</summary>
    public long Refused { get; private set; }

    /// <summary>Accesses that found memory gone which the front-end had shared (<see cref="PeerMappings.Losses"/>); the first ends
    /// the session.</summary>
    public long Losses { get; private set; }

    /// <summary>All of these.</summary>
    public SessionCounters Counters => new(Messages, Refused, Losses);

    /// <summary>The virtio features that were negotiated.</summary>
    public VirtioFeatures Features => _rings.Features;

    /// <summary>The protocol features that were negotiated.</summary>
    public ProtocolFeatures ProtocolFeatures => _requests.ProtocolFeatures;

    /// <summary>What the IOTLB did; all zero unless VIRTIO_F_ACCESS_PLATFORM was negotiated.</summary>
    public IotlbCounters Iotlb => _iotlb.Table.Counters;

    /// <summary>Serves the connection until it ends.</summary>
    /// <exception cref="TimeoutException">A poller is stuck: the guest's memory stays mapped.</exception>
    public void Run()
    {
        try
        {
            while (Serve())
            {
            }
        }
        finally
        {
            Losses = _mappings.Losses;
        }

        if (Losses != 0)
        {
            _log($"session ended: memory of the front-end was gone at {Losses} accesses (SIGBUS). Cause: it shrank its memory " +
                "file, or huge pages ran out. Cure: seal the file (QEMU: memory-backend-memfd with seal=on), reserve the pages");
        }
    }

    /// <summary>Ends <see cref="Run"/>.</summary>
    public void Close() => _channel.Socket.Shutdown();

    /// <summary>Gives back memory and descriptors. <see cref="Run"/> has returned.</summary>
    public void Dispose()
    {
        _rings.Dispose();
        _memory.Dispose();
        _requests.Dispose();
        _turn.Dispose();
        _channel.Dispose();
        _mappings.Dispose();
    }

    // One turn. False at the end of the connection.
    private bool Serve()
    {
        // Front-ends do not answer what is not mapped at that moment: rings ask again.
        _turn.Sleep(_rings.IsAnyWaiting ? _iotlb.Table.Questions.Timeout
            : Features.HasFlag(VirtioFeatures.AccessPlatform) ? SessionTurn.PollersLongest : Timeout.InfiniteTimeSpan);
        _turn.Begin();
        bool goesOn = false;
        int done = 0;
        try
        {
            goesOn = TakeMessages();
            (done, _owed) = (_owed, 0);
        }
        catch (Exception e) when (e is VhostUserProtocolException or LinuxException)
        {
            Refused++;
            _log($"session ended: {e.Message}");
        }
        finally
        {
            EndTurn(goesOn);
        }

        return goesOn && TryAcknowledge(done);
    }

    // Out of the turn: whoever waits for this may run at once, on this processor, and a poller would find the turn taken meanwhile. That
    // its acknowledgements may then come first is no harm, as each is like the other, and what these are for is done.
    private bool TryAcknowledge(int count)
    {
        try
        {
            Acknowledge(count);
            return true;
        }
        catch (LinuxException e)
        {
            Refused++;
            _log($"session ended: {e.Message}");
            _turn.Begin();
            EndTurn(goesOn: false);
            return false;
        }
    }

    private void EndTurn(bool goesOn)
    {
        _turn.End(goesOn);
        if (!goesOn)
        {
            // No poller is in a turn any more, or will be.
            _rings.StopAll();
        }
    }

    private bool TakeMessages()
    {
        _failureOfPoller?.Throw();
        // One look: what comes later wakes this thread again.
        bool any = _channel.TryBuffer();
        while (any)
        {
            if (!_channel.Receive())
            {
                return false;
            }

            Messages++;
            Dispatch();
            any = _channel.HasBuffered;
        }

        _rings.SettleInvalidations();
        _rings.RestartWaiting();
        _iotlb.Tidy();
        return true;
    }

    // On a poller's thread, in its turn and between two of its batches: translations told and revoked, as long as they concern
    // buffers only and are beyond doubt.
    private int TakeAnswers(out bool left, out bool areAll)
    {
        int taken = 0;
        bool isTold = false;
        left = areAll = false;
        try
        {
            while (!areAll && taken < PollersMost && _owed < MostOwed && _channel.TryBuffer())
            {
                if (!IsForPoller())
                {
                    left = true;
                    break;
                }

                isTold |= MemoryMarshal.Read<IotlbMessage>(_channel.NextPayload).Type == IotlbMessageType.Update;
                _channel.Receive();
                Messages++;
                MessagesOfPollers++;
                Dispatch();
                taken++;
                // With a message in the buffer the socket may be silent: that one is the poller's too.
                areAll = isTold && !_channel.HasBuffered && _iotlb.Table.Questions.Pending == 0;
            }

            left |= !Settle(waits: false);
        }
        catch (Exception e) when (e is not OutOfMemoryException)
        {
            // Whatever it is, it is thrown again where a session's failures are dealt with.
            _failureOfPoller = ExceptionDispatchInfo.Capture(e);
            left = true;
        }

        return taken;
    }

    private bool IsForPoller()
    {
        if (!_channel.HasBuffered || _channel.HasBufferedDescriptors || !Features.HasFlag(VirtioFeatures.AccessPlatform))
        {
            return false;
        }

        MessageHeader header = _channel.NextHeader;
        if (header.Request != (uint)FrontendRequest.IotlbMsg || header.Size != Unsafe.SizeOf<IotlbMessage>()
            || (header.Flags & ~MessageHeader.NeedReply) != MessageHeader.Version)
        {
            return false;
        }

        IotlbMessage message = MemoryMarshal.Read<IotlbMessage>(_channel.NextPayload);
        return SessionIotlb.TryRangeOf(message, out IovaRange range) && _rings.IsOutsideRings(range)
            && (message.Type == IotlbMessageType.Invalidate
                || (message.Type == IotlbMessageType.Update && !SessionIotlb.IsRefused(message, _memory.Current)));
    }

    private void Dispatch()
    {
        MessageHeader header = _channel.Header;
        var request = (FrontendRequest)header.Request;
        bool wantsReply = (header.Flags & MessageHeader.NeedReply) != 0 && ProtocolFeatures.HasFlag(ProtocolFeatures.ReplyAck);
        MessageRule rule = default;
        ulong failed = 0;
        if (request != FrontendRequest.IotlbMsg || _owed == MostOwed)
        {
            Settle();
        }

        try
        {
            rule = _requests.Check(header, request);
            _requests.Apply(request);
        }
        catch (Exception e) when (e is VhostUserProtocolException or LinuxException && wantsReply && !rule.HasReply)
        {
            Refused++;
            _log($"{request} refused: {e.Message}");
            failed = 1;
        }

        if (request == FrontendRequest.IotlbMsg && failed == 0)
        {
            _owed += wantsReply ? 1 : 0;
        }
        else if (wantsReply && !rule.HasReply)
        {
            // Answers come in the order of the requests.
            Settle();
            _channel.SendAll<ulong>(header.Request, MessageHeader.Reply, [failed]);
        }
    }

    // Invalidations come in bursts: pollers are waited for once for all that have been received, and then all are acknowledged.
    // False when they could not be without waiting for room.
    private bool Settle(bool waits = true)
    {
        _rings.SettleInvalidations();
        if (!waits)
        {
            if (_owed != 0 && !_channel.TrySendAllAtOnce<ulong>((uint)FrontendRequest.IotlbMsg, MessageHeader.Reply, Success.AsSpan(0, _owed)))
            {
                return false;
            }
        }
        else
        {
            Acknowledge(_owed);
        }

        _owed = 0;
        return true;
    }

    private void Acknowledge(int count)
    {
        if (count != 0)
        {
            _channel.SendAll<ulong>((uint)FrontendRequest.IotlbMsg, MessageHeader.Reply, Success.AsSpan(0, count));
        }
    }
}
