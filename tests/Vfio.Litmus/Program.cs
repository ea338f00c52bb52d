using System.Globalization;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.X86;
using System.Text;
using Vfio.Linux;
using Vfio.Litmus;
using Vfio.Virtio;

// Runs the races that our fences must decide on real processors. Exit code: 0 pass, 1 violation, 2 usage, 3 inconclusive.
const long CaughtEnough = 3;
double seconds = 3;
if (args is not ([] or ["--seconds", _])
    || (args.Length == 2 && !(double.TryParse(args[1], CultureInfo.InvariantCulture, out seconds) && seconds > 0)))
{
    Console.Error.WriteLine("usage: tools/litmus [--seconds N]\nN: how long each race is run, 3 if not given");
    return 2;
}

if (Emulation() is string emulation)
{
    Console.WriteLine($"inconclusive: {emulation}");
    return (int)Verdict.Inconclusive;
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
foreach (Litmus race in races)
{
    var time = TimeSpan.FromSeconds(seconds);
    // The control may take its time: the window depends on how near the two processors are to each other.
    RaceCount control = race.Control(10 * time, CaughtEnough);
    // As often as it took to catch the control, ten times over, or nothing was shown.
    long needed = 10 * control.Rounds / CaughtEnough;
    RaceCount real = default;
    for (int i = 0; i < 10 && (i == 0 || real.Rounds < needed) && real.Violations == 0; i++)
    {
        RaceCount more = race.Real(time, 1);
        real = new RaceCount(real.Rounds + more.Rounds, real.Violations + more.Violations);
    }

    bool isShown = control.Violations >= CaughtEnough && real.Rounds >= needed;
    Verdict verdict = real.Violations != 0 ? Verdict.Violation : isShown ? Verdict.Pass : Verdict.Inconclusive;
    Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
        $"{verdict,-12}  {race.Name,-36}  control caught {control.Violations} in {control.Rounds} rounds, real {real.Violations} in {real.Rounds}"));
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
