# SPDX-License-Identifier: Apache-2.0
"""What a run would need and take on a slice of TPUs, from its compiled program alone."""
