namespace Vfio.Virtio;

/// <summary>A virtio device cannot do what was asked, or does not keep to the specification. The message is whole in itself:
/// the device, what happened, the cause and the cure where they are known.</summary>
/// <remarks>The shape is <c>virtio ADDRESS: WHAT. Cause: … Cure: …</c>.</remarks>
public sealed class VirtioException : IOException
{
    /// <summary>Makes the exception.</summary>
    /// <param name="device">The device.</param>
    /// <param name="what">What happened.</param>
    /// <param name="cause">Why, where that is known.</param>
    /// <param name="cure">What the user can do about it, where that is known.</param>
    public VirtioException(PciAddress device, string what, string? cause = null, string? cure = null)
        : base($"virtio {device}: {what}" + (cause is null ? null : $". Cause: {cause}") + (cure is null ? null : $". Cure: {cure}"))
    {
        Device = device;
        What = what;
        Cause = cause;
        Cure = cure;
    }

    /// <summary>The device.</summary>
    public PciAddress Device { get; }

    /// <summary>What happened.</summary>
    public string What { get; }

    /// <summary>Why, or null where that is not known.</summary>
    public string? Cause { get; }

    /// <summary>What the user can do about it, or null where that is not known.</summary>
    public string? Cure { get; }
}
