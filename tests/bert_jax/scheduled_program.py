# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 (lines as the compiler writes them)
"""Scheduled programs for 16 chips as libtpu 0.0.42 writes them, cut down to what is tested."""

HEADER = "HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8]{0})->f32[8]{0}}"

# One product of [2, 128, 64] by [64, 256] with GELU; a loop of 12 layers; two exchanges.
PROGRAM = (
    HEADER
    + r"""

%add.1 (x: f32[], y: f32[]) -> f32[] {
  %x = f32[]{:T(128)} parameter(0)
  %y = f32[]{:T(128)} parameter(1)
  ROOT %add = f32[]{:T(128)} add(%x, %y)
}

%fused_computation.1 (param_0: bf16[2,128,64], param_1: bf16[64,256]) -> bf16[2,128,256] {
  %param_0 = bf16[2,128,64]{2,1,0:T(8,128)(2,1)S(3)} parameter(0)
  %param_1 = bf16[64,256]{1,0:T(8,128)(2,1)} parameter(1)
  %convolution.1 = f32[2,128,256]{2,1,0:T(8,128)} convolution(%param_0, %param_1), window={size=1}, dim_labels=0bf_io0->0bf, metadata={op_name="jit(step)/jvp()/while/body/closed_call/dot_general"}
  %erf.1 = f32[2,128,256]{2,1,0:T(8,128)} erf(%convolution.1), metadata={op_name="jit(step)/jvp()/while/body/closed_call/gelu/erf"}
  ROOT %convert.1 = bf16[2,128,256]{2,1,0:T(8,128)(2,1)} convert(%erf.1), metadata={op_name="jit(step)/jvp()/while/body/closed_call/gelu/mul"}
}

%fused_computation.2 (param_0.1: f32[1024,128]) -> f32[1024,128] {
  %param_0.1 = f32[1024,128]{1,0:T(8,128)} parameter(0)
  ROOT %multiply.1 = f32[1024,128]{1,0:T(8,128)} multiply(%param_0.1, %param_0.1), metadata={op_name="jit(step)/optimizer/mul"}
}

%fused_computation.3 (param_0.3: f32[1024,128], param_1.3: s32[2048]) -> f32[2048,128] {
  %param_0.3 = f32[1024,128]{1,0:T(8,128)} parameter(0)
  %param_1.3 = s32[2048]{0:T(1024)} parameter(1)
  ROOT %gather.1 = f32[2048,128]{1,0:T(8,128)} gather(%param_0.3, %param_1.3), offset_dims={1}, slice_sizes={1,128}, metadata={op_name="jit(step)/jvp(embeddings)/gather"}
}

%all-reduce-scatter.1 (param_0.2: bf16[1024,128]) -> bf16[64,128] {
  %param_0.2 = bf16[1024,128]{1,0:T(8,128)(2,1)} parameter(0)
  %zero = s32[]{:T(128)} constant(0)
  %all-reduce.9 = bf16[1024,128]{1,0:T(8,128)(2,1)} all-reduce(%param_0.2), channel_id=3, replica_groups=[1,16]<=[16], use_global_device_ids=true, to_apply=%add.1
  ROOT %dynamic-slice.1 = bf16[64,128]{1,0:T(8,128)(2,1)} dynamic-slice(%all-reduce.9, %zero, %zero), dynamic_slice_sizes={64,128}
}

%condition.1 (state.1: (s32[], f32[1024,128])) -> pred[] {
  %constant.7 = s32[]{:T(128)} constant(12)
  %state.1 = (s32[]{:T(128)}, f32[1024,128]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %compare.1 = pred[]{:T(512)} compare(%i, %constant.7), direction=LT
}

%body.1 (state.2: (s32[], f32[1024,128])) -> (s32[], f32[1024,128]) {
  %state.2 = (s32[]{:T(128)}, f32[1024,128]{1,0:T(8,128)}) parameter(0)
  %i.2 = s32[]{:T(128)} get-tuple-element(%state.2), index=0
  %x.2 = bf16[2,128,64]{2,1,0:T(8,128)(2,1)S(3)} get-tuple-element(%state.2), index=1
  %w.2 = bf16[64,256]{1,0:T(8,128)(2,1)} get-tuple-element(%state.2), index=1
  %fusion.1 = bf16[2,128,256]{2,1,0:T(8,128)(2,1)} fusion(%x.2, /*index=1*/%w.2), kind=kOutput, calls=%fused_computation.1, metadata={op_name="jit(step)/jvp()/while/body/closed_call/gelu/mul"}, backend_config={"window_config":{"kernel_window_bounds":["8","128"],"estimated_cycles":"10500"}}
  ROOT %tuple.2 = (s32[]{:T(128)}, f32[1024,128]{1,0:T(8,128)}) tuple(%i.2, %fusion.1)
}

ENTRY %main.1_spmd (param.1: f32[1024,128]) -> f32[1024,128] {
  %param.1 = f32[1024,128]{1,0:T(8,128)} parameter(0)
  %constant.1 = s32[]{:T(128)} constant(0)
  %copy-start.1 = (f32[1024,128]{1,0:T(8,128)S(3)}, f32[1024,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%param.1)
  %tuple.1 = (s32[]{:T(128)}, f32[1024,128]{1,0:T(8,128)}) tuple(%constant.1, %param.1)
  %while.1 = (s32[]{:T(128)}, f32[1024,128]{1,0:T(8,128)}) while(%tuple.1), condition=%condition.1, body=%body.1, metadata={op_name="jit(step)/jvp()/while"}
  %copy-done.1 = f32[1024,128]{1,0:T(8,128)S(3)} copy-done(%copy-start.1)
  %all-reduce.1 = (f32[1024,128]{1,0:T(8,128)}, f32[16]{0:T(128)}) all-reduce(%param.1, /*index=1*/%param.1), channel_id=1, replica_groups=mesh['axis_0'=16,'axis_1'=1] {'axis_0','axis_1'}, use_global_device_ids=true, to_apply=%add.1, metadata={op_name="jit(step)/transpose(jvp())/dot_general"}
  %fusion.9 = bf16[64,128]{1,0:T(8,128)(2,1)} fusion(%param.1), kind=kCustom, calls=%all-reduce-scatter.1
  %all-gather-start.1 = (f32[64,128]{1,0:T(8,128)}, f32[1024,128]{1,0:T(8,128)}) all-gather-start(%param.1), channel_id=5, replica_groups={{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}}, dimensions={0}
  %fusion.2 = f32[1024,128]{1,0:T(8,128)} fusion(%copy-done.1), kind=kLoop, calls=%fused_computation.2, metadata={op_name="jit(step)/optimizer/mul"}, backend_config={"window_config":{"estimated_cycles":"2100"}}
  %all-gather-done.1 = f32[1024,128]{1,0:T(8,128)} all-gather-done(%all-gather-start.1)
  %gather_fusion.1 = f32[2048,128]{1,0:T(8,128)} fusion(%param.1, %constant.1), kind=kCustom, calls=%fused_computation.3, metadata={op_name="jit(step)/jvp(embeddings)/gather"}
  ROOT %copy.9 = f32[1024,128]{1,0:T(8,128)} copy(%all-gather-done.1), backend_config={"window_config":{"estimated_cycles":"1050"}}
}
"""
)

# For v5e: a gather that a chain of fusions drives, one of them a product of [2048, 1024] by
# [1024, 1024]; the fusion between them computes without driving it.
CHAIN = (
    HEADER
    + r"""

%fused_computation.56 (param_0.136: bf16[64,1024]) -> (bf16[64,1024], bf16[1024,1024], s32[2], u32[]) {
  %param_0.136 = bf16[64,1024]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %all-gather.13 = bf16[1024,1024]{1,0:T(8,128)(2,1)} all-gather(%param_0.136), channel_id=1, replica_groups={{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}}, dimensions={0}, use_global_device_ids=true, frontend_attributes={chain_id="0"}, backend_config={"async_collective_fusion_config":{"flag_start":"-1","flag_end":"-1"}}
  ROOT %custom-call.13 = (bf16[64,1024]{1,0:T(8,128)(2,1)S(1)}, bf16[1024,1024]{1,0:T(8,128)(2,1)S(1)}, s32[2]{0:S(4)}, u32[]{:S(2)}) custom-call(%all-gather.13), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.51 (param_0.139: bf16[64,1024], param_1.173: bf16[1024,1024], param_9.20: bf16[1024,1024], param_10.21: bf16[2048,1024]) -> (bf16[2048,1024], bf16[1024,1024]) {
  %param_10.21 = bf16[2048,1024]{1,0:T(8,128)(2,1)S(1)} parameter(3)
  %param_9.20 = bf16[1024,1024]{1,0:T(8,128)(2,1)S(1)} parameter(2)
  %convolution.25 = bf16[2048,1024]{1,0:T(8,128)(2,1)} convolution(%param_10.21, %param_9.20), dim_labels=bf_io->bf
  %param_0.139 = bf16[64,1024]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %all-gather.15 = bf16[1024,1024]{1,0:T(8,128)(2,1)S(1)} all-gather(%param_0.139), channel_id=1, replica_groups={{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}}, dimensions={0}, use_global_device_ids=true, frontend_attributes={chain_id="0"}, backend_config={"async_collective_fusion_config":{"flag_start":"2","flag_end":"8"}}
  ROOT %tuple.80 = (bf16[2048,1024]{1,0:T(8,128)(2,1)S(1)}, bf16[1024,1024]{1,0:T(8,128)(2,1)S(1)}) tuple(%convolution.25, %all-gather.15)
}

%fused_computation.2 (param_0.1: f32[1024,128]) -> f32[1024,128] {
  %param_0.1 = f32[1024,128]{1,0:T(8,128)} parameter(0)
  ROOT %multiply.1 = f32[1024,128]{1,0:T(8,128)} multiply(%param_0.1, %param_0.1), metadata={op_name="jit(step)/optimizer/mul"}
}

%fused_computation.58 (param_0.140: bf16[64,1024], param_1.174: bf16[1024,1024]) -> bf16[1024,1024] {
  %param_0.140 = bf16[64,1024]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %param_1.174 = bf16[1024,1024]{1,0:T(8,128)(2,1)S(1)} parameter(1)
  %all-gather.17 = bf16[1024,1024]{1,0:T(8,128)(2,1)} all-gather(%param_0.140), channel_id=1, replica_groups={{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}}, dimensions={0}, use_global_device_ids=true, frontend_attributes={chain_id="0"}
  ROOT %custom-call.15 = bf16[1024,1024]{1,0:T(8,128)(2,1)S(1)} custom-call(%param_0.140, %param_1.174, %all-gather.17), custom_call_target="AsyncCollectiveDone"
}

ENTRY %main.8_spmd (param.5: bf16[64,1024], param.8: bf16[2048,1024], param.9: bf16[1024,1024], param.10: f32[1024,128]) -> bf16[1024,1024] {
  %param.5 = bf16[64,1024]{1,0:T(8,128)(2,1)} parameter(0)
  %param.8 = bf16[2048,1024]{1,0:T(8,128)(2,1)} parameter(1)
  %param.9 = bf16[1024,1024]{1,0:T(8,128)(2,1)} parameter(2)
  %param.10 = f32[1024,128]{1,0:T(8,128)} parameter(3)
  %async-collective-start = (bf16[64,1024]{1,0:T(8,128)(2,1)S(1)}, bf16[1024,1024]{1,0:T(8,128)(2,1)S(1)}, s32[2]{0:S(4)}, u32[]{:S(2)}) fusion(%param.5), kind=kCustom, calls=%fused_computation.56
  %get-tuple-element.63 = bf16[64,1024]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%async-collective-start), index=0
  %fusion.51 = (bf16[2048,1024]{1,0:T(8,128)(2,1)S(1)}, bf16[1024,1024]{1,0:T(8,128)(2,1)S(1)}) fusion(%get-tuple-element.63, %param.9, %param.9, %param.8), kind=kOutput, calls=%async_collective_fusion.51, metadata={op_name="jit(step)/jvp()/dot_general"}, backend_config={"window_config":{"estimated_cycles":"38748"}}
  %fusion.2 = f32[1024,128]{1,0:T(8,128)} fusion(%param.10), kind=kLoop, calls=%fused_computation.2, metadata={op_name="jit(step)/optimizer/mul"}, backend_config={"window_config":{"estimated_cycles":"15000"}}
  %get-tuple-element.74 = bf16[1024,1024]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%fusion.51), index=1
  ROOT %async-collective-done = bf16[1024,1024]{1,0:T(8,128)(2,1)S(1)} fusion(%get-tuple-element.63, %get-tuple-element.74), kind=kCustom, calls=%fused_computation.58
}
"""
)

# What an ENTRY of the lines of a test runs on, and computations that they may call.
_STAND = r"""

%add.1 (x: f32[], y: f32[]) -> f32[] {
  %x = f32[]{:T(128)} parameter(0)
  %y = f32[]{:T(128)} parameter(1)
  ROOT %add = f32[]{:T(128)} add(%x, %y)
}

%add.2 (x: f32[], y: f32[]) -> f32[] {
  %x.2 = f32[]{:T(128)} parameter(0)
  %y.2 = f32[]{:T(128)} parameter(1)
  ROOT %add.3 = f32[]{:T(128)} add(%x.2, %y.2), metadata={op_name="jit(step)/transpose(jvp(embeddings))/scatter-add"}
}

%fused_computation.2 (param_0.1: f32[1024,128]) -> f32[1024,128] {
  %param_0.1 = f32[1024,128]{1,0:T(8,128)} parameter(0)
  ROOT %multiply.1 = f32[1024,128]{1,0:T(8,128)} multiply(%param_0.1, %param_0.1), metadata={op_name="jit(step)/optimizer/mul"}
}

%async_computation.1 (param_0.7: bf16[4096,1024]) -> bf16[256,1024] {
  %param_0.7 = bf16[4096,1024]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %reduce-scatter.1 = bf16[256,1024]{1,0:T(8,128)(2,1)} reduce-scatter(%param_0.7), channel_id=7, replica_groups=[1,16]<=[16], dimensions={0}, to_apply=%add.1
}

%all-reduce-scatter.2 (param_0.2: bf16[4096,1024]) -> bf16[256,1024] {
  %param_0.2 = bf16[4096,1024]{1,0:T(8,128)(2,1)} parameter(0)
  %zero = s32[]{:T(128)} constant(0)
  %all-reduce.9 = bf16[4096,1024]{1,0:T(8,128)(2,1)} all-reduce(%param_0.2), channel_id=3, replica_groups=[1,16]<=[16], use_global_device_ids=true, to_apply=%add.1
  ROOT %dynamic-slice.1 = bf16[256,1024]{1,0:T(8,128)(2,1)} dynamic-slice(%all-reduce.9, %zero, %zero), dynamic_slice_sizes={256,1024}
}

%called_computation.5 (param_0.5: bf16[256,1024], param_1.5: token[]) -> bf16[4096,1024] {
  %param_1.5 = token[] parameter(1)
  %param_0.5 = bf16[256,1024]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.65 = bf16[4096,1024]{1,0:T(8,128)(2,1)} all-gather(%param_0.5), channel_id=1, replica_groups={{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}}, dimensions={0}, use_global_device_ids=true, backend_config={"device_type":"DEVICE_TYPE_SPARSECORE","collective_offload_config":{"all_gather_offload_config":{"ici_strategy_config":{"color_strategies":[{"phase_rings":[{"ring_type":"ICI_RING_TYPE_UNIDIR_CW","core_count":"16"}]},{"phase_rings":[{"ring_type":"ICI_RING_TYPE_UNIDIR_CCW","core_count":"16"}]}]}}}}
}, execution_thread="sparsecore"

%fused_computation.4 (param_0.4: f32[30592,768], param_1.4: s32[2048], param_2.4: f32[2048,768]) -> f32[30592,768] {
  %param_0.4 = f32[30592,768]{1,0:T(8,128)} parameter(0)
  %param_1.4 = s32[2048]{0:T(1024)} parameter(1)
  %param_2.4 = f32[2048,768]{1,0:T(8,128)} parameter(2)
  ROOT %scatter.1 = f32[30592,768]{1,0:T(8,128)} scatter(%param_0.4, %param_1.4, %param_2.4), update_window_dims={1}, inserted_window_dims={0}, scatter_dims_to_operand_dims={0}, index_vector_dim=1, to_apply=%add.2, metadata={op_name="jit(step)/transpose(jvp(embeddings))/scatter-add"}
}

ENTRY %main.1_spmd (param.1: f32[1024,128], param.2: bf16[4096,1024]) -> f32[1024,128] {
  %param.1 = f32[1024,128]{1,0:T(8,128)} parameter(0)
  %param.2 = bf16[4096,1024]{1,0:T(8,128)(2,1)} parameter(1)
  %param.3 = f32[30592,768]{1,0:T(8,128)} parameter(2)
  %param.4 = s32[2048]{0:T(1024)} parameter(3)
  %param.5 = f32[2048,768]{1,0:T(8,128)} parameter(4)
"""


def with_entry(*lines: str) -> str:
    """A program that runs these lines; `compute(1)` stands for 52,500 cycles, named fusion.1."""
    compute = (
        "%fusion.{0} = f32[1024,128]{{1,0:T(8,128)}} fusion(%param.1), kind=kLoop, "
        'calls=%fused_computation.2, metadata={{op_name="jit(step)/optimizer/mul"}}, '
        'backend_config={{"window_config":{{"estimated_cycles":"52500"}}}}'
    )
    written = [
        compute.format(line.removeprefix("compute(").removesuffix(")"))
        if line.startswith("compute(")
        else line
        for line in lines
    ]
    return HEADER + _STAND + "".join(f"  {line}\n" for line in written) + "}\n"
