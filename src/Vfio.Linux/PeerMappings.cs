using System.Runtime.InteropServices;

namespace Vfio.Linux;

/// <summary>The memory of one peer that is mapped here: how much it may be, and whether it stayed. A peer that shrinks its file,
/// or whose huge pages run out, takes pages away under the mapping; the access that finds out reads and writes zeroes of our own
/// from then on, <see cref="Losses"/> rises, and the peer's connection is shut down.</summary>
/// <remarks>
/// <para>Thread-safe. Disposed after the last mapping that was made for it.</para>
/// <para>Works for accesses by instructions of this process. A system call that is handed such memory gets EFAULT.</para>
/// </remarks>
public sealed unsafe class PeerMappings : IDisposable
{
    // SAFETY, for the whole class: the native block is this object's until Dispose; the signal handler writes Losses and reads
    // Connection through ranges, of which there are none left by then.
    private static readonly Tally All = new();

    private readonly Tally _own = new();
    private readonly MappingLimits _limits;
    private Native* _native;

    /// <summary>Nothing is mapped yet.</summary>
    /// <param name="connection">Shut down when memory is lost; stays the caller's. Null: nothing is.</param>
    /// <param name="limits">What the peer may have; null for <see cref="MappingLimits.Peer"/>.</param>
    /// <exception cref="LinuxException">There is no descriptor left for the second name of the connection.</exception>
    public PeerMappings(UnixSocket? connection = null, MappingLimits? limits = null)
    {
        _limits = limits ?? MappingLimits.Peer;
        int second = -1;
        if (connection is not null)
        {
            // The handler must never find that the number means something else by now.
            second = LibC.fcntl(connection.Descriptor.Number, Fcntl.F_DUPFD_CLOEXEC, 0);
            if (second < 0)
            {
                throw new LinuxException("fcntl(F_DUPFD_CLOEXEC)", (Errno)LibC.errno, "a peer's connection");
            }
        }

        _native = (Native*)NativeMemory.Alloc((nuint)sizeof(Native));
        *_native = new Native { Losses = 0, Connection = second };
    }

    /// <summary>Accesses that found memory gone. A few for each mapping that was lost, as threads find out at the same time.</summary>
    /// <exception cref="ObjectDisposedException">It was disposed.</exception>
    public long Losses
    {
        get
        {
            ObjectDisposedException.ThrowIf(_native is null, this);
            // ORDER: acquire; the handler raises it before the zeroes can be read.
            return Volatile.Read(ref _native->Losses);
        }
    }

    /// <summary>Bytes of address space that are taken.</summary>
    public ulong Bytes => _own.Bytes;

    /// <summary>Mappings that are taken.</summary>
    public int Mappings => _own.Mappings;

    /// <summary>For memory of peers that nobody accounts for.</summary>
    internal static PeerMappings Unowned { get; } = new(limits: MappingLimits.Process);

    /// <inheritdoc/>
    public void Dispose()
    {
        if (_native is not null)
        {
            _ = _native->Connection >= 0 ? LibC.close(_native->Connection) : 0;
            NativeMemory.Free(_native);
            _native = null;
        }
    }

    /// <summary>Takes room, or refuses.</summary>
    /// <exception cref="LinuxException">ENOMEM: the peer, or all peers together, would have too much.</exception>
    internal void Charge(MappingLimits room)
    {
        if (!_own.TryTake(room, _limits))
        {
            throw Refusal(room, "this peer", _own, _limits);
        }

        if (!All.TryTake(room, MappingLimits.Process))
        {
            _own.Give(room);
            throw Refusal(room, "all peers together", All, MappingLimits.Process);
        }
    }

    /// <summary>Gives room back.</summary>
    internal void Refund(MappingLimits room)
    {
        _own.Give(room);
        All.Give(room);
    }

    /// <summary>Watches whole pages that nobody touches yet.</summary>
    /// <returns>What <see cref="Unwatch"/> wants.</returns>
    internal nint Watch(nint first, nuint length, ulong pageSize)
    {
        nint range;
        // SAFETY: the block lives until after Unwatch.
        int result = NativeCode.vfiopin_sigbus_add(first, length, (nuint)pageSize, _native, &range);
        return result < 0
            ? throw new LinuxException("sigaction(SIGBUS)", (Errno)(-result), "a peer's memory cannot be watched")
            : range;
    }

    /// <summary>Ends that: nobody touches the pages any more, and they are still mapped.</summary>
    internal static void Unwatch(nint range) => NativeCode.vfiopin_sigbus_remove(range);

    private static LinuxException Refusal(MappingLimits room, string who, Tally tally, MappingLimits limits) => new(
        "mmap", Errno.ENOMEM, $"{room.Bytes} bytes in {room.Mappings} mappings for a peer's memory",
        $"{who} may have {limits.Bytes} bytes in {limits.Mappings} mappings and has {tally.Bytes} in {tally.Mappings}",
        "fewer or smaller regions; or raise vm.max_map_count and the limit on address space (ulimit -v)");

    // As native/library/sigbus.c has it.
    private struct Native
    {
        public long Losses;
        public int Connection;
    }

    private sealed class Tally
    {
        private readonly Lock _lock = new();
        private ulong _bytes;
        private int _mappings;

        public ulong Bytes
        {
            get
            {
                lock (_lock)
                {
                    return _bytes;
                }
            }
        }

        public int Mappings
        {
            get
            {
                lock (_lock)
                {
                    return _mappings;
                }
            }
        }

        public bool TryTake(MappingLimits room, MappingLimits limits)
        {
            lock (_lock)
            {
                if (_bytes > limits.Bytes || room.Bytes > limits.Bytes - _bytes
                    || _mappings > limits.Mappings || room.Mappings > limits.Mappings - _mappings)
                {
                    return false;
                }

                _bytes += room.Bytes;
                _mappings += room.Mappings;
                return true;
            }
        }

        public void Give(MappingLimits room)
        {
            lock (_lock)
            {
                _bytes -= room.Bytes;
                _mappings -= room.Mappings;
            }
        }
    }
}
