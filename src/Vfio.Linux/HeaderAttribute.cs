namespace Vfio.Linux;

/// <summary>Names the C header that a struct or a group of constants mirrors. The ABI test reads it: it emits C that includes
/// that header and asserts the size, every field's offset and every constant, so a value here is proved, not believed.</summary>
[AttributeUsage(AttributeTargets.Struct | AttributeTargets.Class, AllowMultiple = false)]
internal sealed class HeaderAttribute(string path) : Attribute
{
    /// <summary>The header as an <c>#include</c> names it, such as <c>linux/vfio.h</c>.</summary>
    public string Path { get; } = path;
}
