namespace Vfio.Virtio;

/// <summary>Turns addresses in descriptors into addresses of this process. Implemented by structs only and used as a type
/// argument, so that the ring's code is compiled anew for each and the call disappears.</summary>
public interface ITranslator
{
    /// <summary>Translates as much of a range as lies together in this process.</summary>
    /// <param name="address">The first byte. Chosen by the peer; <c>address + length - 1</c> does not wrap.</param>
    /// <param name="length">Bytes, at least 1.</param>
    /// <param name="access">What the device is going to do there.</param>
    /// <param name="host">Where the first byte is, when the answer is <see cref="TranslationStatus.Translated"/>.</param>
    /// <param name="usable">Bytes from there on that may be touched, 1 to <paramref name="length"/>. Less than
    /// <paramref name="length"/> where the range goes on elsewhere: the ring asks again for the rest.</param>
    /// <returns>Whether it could.</returns>
    /// <remarks>On <see cref="TranslationStatus.Miss"/> the translator itself notes what is missing, of the whole range, so that
    /// one batch asks for all of it. The ring may ask for the same range again, in the same batch too.</remarks>
    TranslationStatus Translate(
        BusAddress address, uint length, DeviceAccess access, out HostAddress host, out uint usable);

    /// <summary>Translates a range that lies together in this process, where the answer is at hand: in the ring's innermost loop, so
    /// without a search and without a call, which would send all that lives there to the stack even where it is never reached.</summary>
    /// <param name="address">As for <see cref="Translate"/>.</param>
    /// <param name="length">Bytes, at least 1.</param>
    /// <param name="access">What the device is going to do there.</param>
    /// <param name="host">Where the first byte of all of them is, when the answer is true.</param>
    /// <returns>False says nothing about the range: <see cref="Translate"/> is asked then.</returns>
    /// <remarks>The ring asks a copy of its own: what an answer changes in the translator itself is lost.</remarks>
    bool TryTranslate(BusAddress address, uint length, DeviceAccess access, out HostAddress host);

    /// <summary>Says how often <see cref="TryTranslate"/> was true of late: for those who count.</summary>
    /// <param name="times">So often.</param>
    void CountAtHand(int times);
}
