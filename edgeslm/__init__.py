"""Pack small language models for edge devices, run them there, and measure what they cost.

The rooms are imported by name (`from edgeslm.llama.model import Model`); importing this
package loads nothing else.
"""

__version__ = "0.1.0"
