using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.Service;

/// <summary>A failed operation on the wire: the parts of its exception, so that the client's message is the same as in the process
/// where it failed.</summary>
/// <param name="Call">The call that failed, or <c>virtio</c> for what a virtio device did.</param>
/// <param name="Errno">The error's name, such as <c>ENOMEM</c>, or its number where it has none; null where it is no call's.</param>
/// <param name="Number">The error's number; 0 where it is no call's.</param>
/// <param name="Detail">What the call was about, or what the device did.</param>
/// <param name="Cause">Why it failed, or null.</param>
/// <param name="Cure">What the user can do, or null.</param>
/// <param name="Device">The virtio device, or null for a call.</param>
public sealed record ErrorData(string Call, string? Errno, int Number, string Detail, string? Cause, string? Cure, PciAddress? Device = null)
{
    /// <summary>The parts of an exception.</summary>
    /// <param name="exception">The exception.</param>
    /// <returns>Its parts, or null for an exception that is no failed call's and no device's.</returns>
    public static ErrorData? Of(Exception exception) => exception switch
    {
        LinuxException e => new ErrorData(e.Call, e.Errno.ToString(), (int)e.Errno, e.Detail, e.Cause, e.Cure),
        VirtioException e => new ErrorData("virtio", null, 0, e.What, e.Cause, e.Cure, e.Device),
        _ => null,
    };

    /// <summary>The exception of these parts.</summary>
    /// <returns>The exception, to throw.</returns>
    public IOException ToException() => Device is PciAddress device
        ? new VirtioException(device, Detail, Cause, Cure)
        : new LinuxException(Call, (Errno)Number, Detail, Cause, Cure);
}
