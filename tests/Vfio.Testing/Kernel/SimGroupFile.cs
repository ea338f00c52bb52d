using System.Runtime.InteropServices;
using Vfio.Linux;

namespace Vfio.Testing;

/// <summary>An open <c>/dev/vfio/N</c>.</summary>
internal sealed unsafe class SimGroupFile(SimKernel kernel, SimGroup group) : SimFile
{
    public override string Name => $"/dev/vfio/{group.Number}";

    public override long Ioctl(uint request, void* argument)
    {
        switch (request)
        {
            case vfio.VFIO_GROUP_GET_STATUS:
                if (!UserMemory.TryRead(argument, out vfio_group_status status))
                {
                    return -(long)Errno.EFAULT;
                }

                if (status.argsz < sizeof(vfio_group_status))
                {
                    return -(long)Errno.EINVAL;
                }

                status.flags = group.Status();
                return UserMemory.TryWrite((ulong)argument, MemoryMarshal.AsBytes(new ReadOnlySpan<vfio_group_status>(in status)))
                    ? 0 : -(long)Errno.EFAULT;
            case vfio.VFIO_GROUP_SET_CONTAINER:
                return UserMemory.TryRead(argument, out int container) ? -(long)SetContainer(container) : -(long)Errno.EFAULT;
            case vfio.VFIO_GROUP_UNSET_CONTAINER:
                return -(long)group.UnsetContainer();
            case vfio.VFIO_GROUP_GET_DEVICE_FD:
                return UserMemory.CanRead((ulong)argument, 1)
                    ? group.OpenDevice(Marshal.PtrToStringUTF8((nint)argument) ?? string.Empty)
                    : -(long)Errno.EFAULT;
            default:
                return -(long)Errno.ENOTTY;
        }
    }

    public override void Close() => group.Release();

    // A descriptor that is open in this process but not ours is a file that is no container.
    private Errno SetContainer(int descriptor)
    {
        SimFile? file = kernel.File(descriptor);
        bool isReal = file is null && System.IO.File.Exists($"/proc/self/fd/{descriptor}");
        return isReal ? (Errno)kernel.Behaviour.UnknownContainer : group.SetContainer(file);
    }
}
