using System.Runtime.CompilerServices;
using Vfio.Linux;

namespace Vfio;

/// <summary>Memory that <see cref="Pinner.Register(PinRange, PinOptions?)"/> pinned. Disposing releases it; what nothing else has pinned is unmapped.</summary>
/// <remarks>Translating is thread-safe until it is released. The memory must stay mapped in this process until then, and no device may be using it when it is released:
/// reset the queue first.</remarks>
public sealed class RegisteredMemory : IDisposable
{
    private readonly Pinner _pinner;
    // Null where there is one mapping and no more, the one that the next three tell of.
    private readonly DmaMapping[]? _mappings;
    private readonly HostRange _host;
    private readonly Iova _iova;
    private readonly DmaAccess _access;
    private readonly IReadOnlyList<PinFailure>? _failures;
    private int _count;
    // What was unmapped and not told yet, as a release ended early.
    private List<UnmappedMemory>? _unmapped;

    internal RegisteredMemory(Pinner pinner, IReadOnlyList<DmaMapping> mappings, IReadOnlyList<PinFailure> failures)
    {
        _pinner = pinner;
        _mappings = [.. mappings.OrderBy(m => m.Host.First)];
        _count = _mappings.Length;
        _failures = failures;
    }

    // Of a single mapping, which is made afterwards; where it cannot be, the object is forgotten.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal RegisteredMemory(Pinner pinner, HostRange host, Iova iova, DmaAccess access)
    {
        _pinner = pinner;
        (_host, _iova, _access) = (host, iova, access);
        _count = 1;
    }

    /// <summary>The IOMMU entries that it uses, by host address. One that existed before may reach beyond what was registered.</summary>
    public IReadOnlyList<DmaMapping> Mappings =>
        _mappings is not null ? new ArraySegment<DmaMapping>(_mappings, 0, _count)
        : _count != 0 ? [new DmaMapping(_host, IovaRange.Of(_iova, _host.Length), _access)]
        : [];

    /// <summary>The pages that could not be pinned; always empty with <see cref="PinPolicy.AllOrNothing"/>.</summary>
    public IReadOnlyList<PinFailure> Failures => _failures ?? [];

    /// <summary>The pieces whose pages could not all be made ahead of mapping; none where populating was not asked for. What of them could
    /// not be pinned either is in <see cref="Failures"/>; the rest is pinned.</summary>
    public IReadOnlyList<PopulateFailure> PopulateFailures { get; internal set; } = [];

    /// <summary>Where a device finds a host address.</summary>
    /// <param name="address">The host address.</param>
    /// <param name="iova">The IOVA.</param>
    /// <param name="contiguous">Bytes from there on that are contiguous in both address spaces within one mapping.</param>
    /// <returns>False when the address is not pinned by this object.</returns>
    public bool TryTranslate(HostAddress address, out Iova iova, out ulong contiguous)
    {
        if (_mappings is null && _count != 0 && _host.Contains(address))
        {
            (iova, contiguous) = (_iova + (address - _host.First), _host.Last - address + 1);
            return true;
        }

        ReadOnlySpan<DmaMapping> all = _mappings is null ? [] : _mappings.AsSpan(0, _count);
        int found = all.LastAtOrBelow(new StartAt(address));
        if (found >= 0 && all[found].Host.Contains(address))
        {
            iova = all[found].Iova.First + (address - all[found].Host.First);
            contiguous = all[found].Host.Last - address + 1;
            return true;
        }

        (iova, contiguous) = (default, 0);
        return false;
    }

    /// <summary>Releases it. Doing it again does nothing. Where the kernel tracks dirty pages, what it knows of these is lost: see
    /// <see cref="Release"/>.</summary>
    /// <exception cref="LinuxException">Something could not be unmapped. It and what follows it stay pinned; disposing again tries again.</exception>
    public void Dispose() => ReleaseFrom(new HostAddress(0), wantsDirty: false);

    /// <summary>Releases it, and tells what the kernel knew of the pages, which it forgets as they are unmapped. Memory that others have pinned
    /// too is not unmapped, and the kernel knows it still. Doing it again tells nothing more.</summary>
    /// <returns>What was unmapped while the kernel tracked dirty pages (<see cref="Type1Iommu.StartDirtyTracking"/>); nothing where it did not.</returns>
    /// <exception cref="LinuxException">Something could not be unmapped. It and what follows it stay pinned. Releasing again tries again, and then
    /// tells of what was unmapped before, too.</exception>
    public IReadOnlyList<UnmappedMemory> Release()
    {
        ReleaseFrom(new HostAddress(0), wantsDirty: true);
        return TakeUnmapped();
    }

    /// <summary>Releases the mappings that start at or after an address.</summary>
    internal void ReleaseFrom(HostAddress first, bool wantsDirty)
    {
        lock (_pinner.Lock)
        {
            while (_count > 0 && (_mappings is null ? _host : _mappings[_count - 1].Host).First is var last && last >= first)
            {
                if (wantsDirty && _pinner.Iommu.IsTrackingDirty)
                {
                    // Room first: what the kernel told must not be lost.
                    _unmapped ??= [];
                    _unmapped.EnsureCapacity(_unmapped.Count + 1);
                }

                if (_pinner.ReleaseOne(last, wantsDirty) is { } unmapped)
                {
                    (_unmapped ??= []).Add(unmapped);
                }

                _count--;
            }
        }
    }

    /// <summary>What was unmapped while the kernel tracked, and was not told yet.</summary>
    internal IReadOnlyList<UnmappedMemory> TakeUnmapped()
    {
        lock (_pinner.Lock)
        {
            List<UnmappedMemory>? unmapped = _unmapped;
            _unmapped = null;
            return unmapped is null ? [] : unmapped;
        }
    }

    private readonly struct StartAt(HostAddress address) : IComparable<DmaMapping>
    {
        public int CompareTo(DmaMapping other) => address.CompareTo(other.Host.First);
    }
}
