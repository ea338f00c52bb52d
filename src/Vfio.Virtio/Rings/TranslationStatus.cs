namespace Vfio.Virtio;

/// <summary>The answer of an <see cref="ITranslator"/>.</summary>
public enum TranslationStatus
{
    /// <summary>The memory may be used.</summary>
    Translated,

    /// <summary>Not known yet: it was or will be asked for, come back later. No fault of the peer.</summary>
    Miss,

    /// <summary>Not the peer's memory, or not for this access.</summary>
    Denied,
}
