using Vfio.Testing;

namespace Vfio.Tests;

[TestClass]
public sealed class Linux618SimulationTests() : Type1SimulationTests(KernelBehaviour.Linux618);
