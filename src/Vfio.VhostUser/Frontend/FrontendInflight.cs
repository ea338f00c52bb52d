using Vfio.Linux;

namespace Vfio.VhostUser;

/// <summary>The buffer in which back-ends record what is in flight, kept by the front-end from one back-end to the next.</summary>
public sealed class FrontendInflight : IDisposable
{
    internal FrontendInflight(FileDescriptor file, InflightDescription description)
    {
        File = file;
        Description = description;
    }

    internal FileDescriptor File { get; }

    internal InflightDescription Description { get; }

    /// <inheritdoc/>
    public void Dispose() => File.Dispose();
}
