# The native core is built by cargo; node-gyp only starts it, so that `npm install` builds it as it builds any addon.
{
  'targets': [
    {
      'target_name': 'pagewire',
      'type': 'none',
      'actions': [
        {
          'action_name': 'cargo',
          'inputs': ['scripts/build-native.mjs'],
          # The second file is never made, so the action runs each time: what is stale, cargo knows.
          'outputs': ['<(PRODUCT_DIR)/pagewire.node', '<(PRODUCT_DIR)/always'],
          'action': ['node', 'scripts/build-native.mjs', '<(PRODUCT_DIR)/pagewire.node'],
        },
      ],
    },
  ],
}
