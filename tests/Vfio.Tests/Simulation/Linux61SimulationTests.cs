using Vfio.Testing;

namespace Vfio.Tests;

[TestClass]
public sealed class Linux61SimulationTests() : Type1SimulationTests(KernelBehaviour.Linux61);
