# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 (lines as the compiler writes them)
"""A scheduled program for 16 chips of v4 as libtpu 0.0.42 writes it, cut down to what is tested."""

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

%fused_computation.3 (param_0.3: f32[1024,128], param_1.3: s32[2048]) -> f32[2048,768] {
  %param_0.3 = f32[1024,128]{1,0:T(8,128)} parameter(0)
  %param_1.3 = s32[2048]{0:T(1024)} parameter(1)
  ROOT %gather.1 = f32[2048,768]{1,0:T(8,128)} gather(%param_0.3, %param_1.3), offset_dims={1}, metadata={op_name="jit(step)/jvp(embeddings)/gather"}
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
  %gather_fusion.1 = f32[2048,768]{1,0:T(8,128)} fusion(%param.1, %constant.1), kind=kCustom, calls=%fused_computation.3, metadata={op_name="jit(step)/jvp(embeddings)/gather"}
  ROOT %copy.9 = f32[1024,128]{1,0:T(8,128)} copy(%all-gather-done.1), backend_config={"window_config":{"estimated_cycles":"1050"}}
}
"""
)
