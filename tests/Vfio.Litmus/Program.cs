using System.Globalization;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.X86;
using System.Text;
using Vfio.Linux;
using Vfio.Litmus;
using Vfio.Virtio;

// Runs the races that our fences must decide on real processors. Exit code: 0 pass, 1 violation, 2 usage, 3 inconclusive, 4 this machine cannot tell.
const long CaughtEnough = 3;
// Without what makes it right the real one would have been caught so often, or nothing was shown.
const double WouldBeEnough = 10;
const int MostTurns = 50;
const int CannotTell = 4;
double seconds = 1;
if (args is not ([] or ["--seconds", _])
    || (args.Length == 2 && !(double.TryParse(args[1], CultureInfo.InvariantCulture, out seconds) && seconds > 0)))
{
    Console.Error.WriteLine("usage: tools/litmus [--seconds N]\nN: how long a race runs at a time, 1 if not given; at most 50 times with and without what makes it right");
    return 2;
}

if (Emulation() is string emulation)
{
    Console.WriteLine($"nothing was run: {emulation}");
    return CannotTell;
}

VirtioFeatures[] layouts =
[
    VirtioFeatures.Version1 | VirtioFeatures.RingEventIdx,
    VirtioFeatures.Version1 | VirtioFeatures.RingEventIdx | VirtioFeatures.RingPacked,
];
var races = new List<Litmus>
{
    new("grace period, reader between batches",
        (time, enough) => GraceRace.Run(new BuggyMovingGrace(), time, enough),
        (time, enough) => GraceRace.Run(new MovingGrace(), time, enough)),
    new("grace period, reader that parks",
        (time, enough) => GraceRace.Run(new BuggyParkingGrace(), time, enough),
        (time, enough) => GraceRace.Run(new ParkingGrace(), time, enough)),
};
foreach (VirtioFeatures features in layouts)
{
    string layout = features.HasFlag(VirtioFeatures.RingPacked) ? "packed" : "split";
    races.Add(new Litmus($"call suppression, {layout}", new BuggyNotification().Run, (time, enough) =>
    {
        using var race = new NotificationRace(features);
        return race.RunCall(time, enough);
    }));
    races.Add(new Litmus($"kick suppression, {layout}", new BuggyNotification().Run, (time, enough) =>
    {
        using var race = new NotificationRace(features);
        return race.RunKick(time, enough);
    }));
}

Verdict worst = Verdict.Pass;
var turn = TimeSpan.FromSeconds(seconds);
foreach (Litmus race in races)
{
    // How near the two processors are to each other decides how often the control is caught, and a host moves them about. So the two
    // run in turns, and the real one's rounds count for as much as the control beside them says.
    RaceCount control = default;
    RaceCount real = default;
    double wouldBeCaught = 0;
    for (int i = 0; i < MostTurns && (wouldBeCaught < WouldBeEnough || control.Violations < CaughtEnough) && real.Violations == 0; i++)
    {
        RaceCount caught = race.Control(turn, CaughtEnough);
        control += caught;
        if (caught.Violations != 0)
        {
            RaceCount held = race.Real(turn, 1);
            real += held;
            wouldBeCaught += (double)caught.Violations / caught.Rounds * held.Rounds;
        }
    }

    bool isShown = wouldBeCaught >= WouldBeEnough && control.Violations >= CaughtEnough;
    Verdict verdict = real.Violations != 0 ? Verdict.Violation : isShown ? Verdict.Pass : Verdict.Inconclusive;
    Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
        $"{verdict,-12}  {race.Name,-36}  control caught {control.Violations} in {control.Rounds} rounds, real {real.Violations} in {real.Rounds} (for {wouldBeCaught:F0})"));
    worst = verdict == Verdict.Violation || worst == Verdict.Pass ? verdict == Verdict.Pass ? worst : verdict : worst;
}

Console.WriteLine(worst.ToString().ToUpperInvariant());
return (int)worst;

// A race on an emulated processor says nothing: emulation has no store buffer.
static string? Emulation()
{
    if (RuntimeInformation.ProcessArchitecture != Architecture.X64 || !X86Base.IsSupported)
    {
        return "this is not an x86-64 processor; the fences were argued for no other";
    }

    if (ThreadAffinity.Get().Length < 2)
    {
        return "a race wants two processors";
    }

    // Leaf 0x40000000: the hypervisor's name. KVM and others run the code on the processor itself.
    (_, int ebx, int ecx, int edx) = X86Base.CpuId(0x40000000, 0);
    string name = Encoding.ASCII.GetString(MemoryMarshal.AsBytes<int>([ebx, ecx, edx]));
    return name == "TCGTCGTCGTCG" ? "the processor is emulated (QEMU TCG)" : null;
}
