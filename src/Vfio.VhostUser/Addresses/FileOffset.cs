using System.Globalization;

namespace Vfio.VhostUser;

/// <summary>Where something starts in a file that a front-end sent.</summary>
/// <param name="Value">Bytes from the file's start.</param>
public readonly record struct FileOffset(ulong Value)
{
    /// <inheritdoc/>
    public override string ToString() => "0x" + Value.ToString("x", CultureInfo.InvariantCulture);
}
