using System.Globalization;
using System.Text;
using Vfio.Linux;

namespace Vfio;

/// <summary>What pinning would do: the calls, what they cost, and what stands against them. Nothing has been touched.</summary>
/// <param name="Maps">The calls of VFIO_IOMMU_MAP_DMA, in order; each is one entry of the IOMMU. The host addresses start at 0 for memory
/// that does not exist yet.</param>
/// <param name="References">Mappings that exist already and are used once more, without a call.</param>
/// <param name="Refused">Memory that cannot be pinned because a mapping of it exists that gives the device less.</param>
/// <param name="Problems">The limits that the plan does not keep; none when it can work.</param>
/// <param name="Grain">The largest piece that can be freed alone is no larger than this; 0 where maps are as large as they can be.</param>
/// <param name="Limits">The limits that it was held against.</param>
public sealed record PinPlan(
    IReadOnlyList<PinMap> Maps,
    IReadOnlyList<DmaMapping> References,
    IReadOnlyList<PinFailure> Refused,
    IReadOnlyList<PinProblem> Problems,
    ulong Grain,
    PinLimits Limits)
{
    /// <summary>Calls of VFIO_IOMMU_MAP_DMA when none fails.</summary>
    public int MapCalls => Maps.Count;

    /// <summary>Entries used of the container's limit, one a map.</summary>
    public int Entries => Maps.Count;

    /// <summary>Bytes that count against RLIMIT_MEMLOCK. Device memory in them would not count; the plan cannot know.</summary>
    public ulong LockedBytes
    {
        get
        {
            ulong sum = 0;
            foreach (PinMap map in Maps)
            {
                sum += map.Mapping.Iova.Length;
            }

            return sum;
        }
    }

    /// <summary>Bytes of the largest map: what is freed at once at the most.</summary>
    public ulong LargestMap
    {
        get
        {
            ulong largest = 0;
            foreach (PinMap map in Maps)
            {
                largest = Math.Max(largest, map.Mapping.Iova.Length);
            }

            return largest;
        }
    }

    /// <summary>Whether nothing stands against it.</summary>
    public bool CanWork => Problems.Count == 0;

    /// <summary>Throws the first problem, so that an impossible plan is never begun.</summary>
    /// <param name="what">What is being pinned, for the message.</param>
    /// <exception cref="LinuxException">The plan cannot work.</exception>
    public void ThrowIfImpossible(string what)
    {
        if (Problems.Count > 0)
        {
            throw Problems[0].Exception(what);
        }
    }

    /// <inheritdoc/>
    public override string ToString()
    {
        var text = new StringBuilder();
        CultureInfo culture = CultureInfo.InvariantCulture;
        foreach (PinMap map in Maps)
        {
            text.Append(culture, $"map   {map.Mapping} {ByteSize.Text(map.Mapping.Iova.Length)}, IOMMU pages up to {ByteSize.Text(map.LargestPage)}\n");
        }

        foreach (DmaMapping reference in References)
        {
            text.Append(culture, $"keep  {reference}\n");
        }

        foreach (PinFailure refused in Refused)
        {
            text.Append(culture, $"leave {refused.Host}: {refused.Cause}\n");
        }

        text.Append(culture, $"{MapCalls} map calls, {Entries} entries, {ByteSize.Text(LockedBytes)} count as locked, freed in pieces of up to {ByteSize.Text(LargestMap)}\n");
        foreach (PinProblem problem in Problems)
        {
            text.Append(culture, $"cannot work: {problem}\n");
        }

        return text.ToString();
    }
}
