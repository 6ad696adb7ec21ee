"""Brief training of a spiking network's first timestep. Needs torch: import nothing from here before it is needed."""
