using Vfio.Linux;

namespace Vfio.Service;

/// <summary>A device that the engine holds, and who drives it at this moment: one at a time.</summary>
internal sealed class OpenDevice(VfioDevice device)
{
    private readonly Lock _gate = new();
    private string? _user;

    public VfioDevice Device { get; } = device;

    public PciAddress Address => Device.Address;

    /// <summary>Takes the device for one user.</summary>
    /// <param name="user">Who, for the message that another one gets.</param>
    /// <returns>Call it once to give the device back.</returns>
    /// <exception cref="LinuxException">Somebody else drives it (EBUSY).</exception>
    public Action Take(string user)
    {
        lock (_gate)
        {
            if (_user is not null)
            {
                throw new LinuxException(
                    "drive device",
                    Errno.EBUSY,
                    $"{Address}",
                    $"it is in use by {_user}",
                    "wait until that has ended, or end it");
            }

            _user = user;
        }

        return () =>
        {
            lock (_gate)
            {
                _user = null;
            }
        };
    }
}
