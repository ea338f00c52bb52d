// One device of each kind in the VM: tests take turns.
[assembly: DoNotParallelize]
