namespace Vfio.Testing;

/// <summary>What a driver told a simulated virtio device about a queue.</summary>
public sealed class SimVirtqueue
{
    internal SimVirtqueue(int index, ushort maximum)
    {
        Index = index;
        Maximum = maximum;
        Reset();
    }

    public int Index { get; }

    /// <summary>The longest that it can be.</summary>
    public ushort Maximum { get; }

    public ushort Size { get; internal set; }

    public bool IsEnabled { get; internal set; }

    /// <summary>The MSI-X vector, or 0xffff.</summary>
    public ushort Vector { get; internal set; }

    /// <summary>The descriptor area.</summary>
    public Iova Descriptors { get; internal set; }

    /// <summary>The driver area: the available ring, or the driver event suppression structure.</summary>
    public Iova Driver { get; internal set; }

    /// <summary>The device area: the used ring, or the device event suppression structure.</summary>
    public Iova Device { get; internal set; }

    internal void Reset()
    {
        Size = Maximum;
        IsEnabled = false;
        Vector = ushort.MaxValue;
        Descriptors = default;
        Driver = default;
        Device = default;
    }
}
