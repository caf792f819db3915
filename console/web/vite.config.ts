import { defineConfig } from "vite";

// The bundle is committed, so it must be the same wherever it is made: fixed names, no time, no path.
export default defineConfig({
  base: "./",
  publicDir: "public",
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  build: {
    outDir: "../bundle",
    emptyOutDir: true,
    target: "es2022",
    modulePreload: false,
    assetsInlineLimit: 0,
    cssCodeSplit: false,
    sourcemap: false,
    rollupOptions: {
      output: {
        entryFileNames: "app.js",
        chunkFileNames: "app-[name].js",
        assetFileNames: (asset) => (asset.names.some((name) => name.endsWith(".css")) ? "app.css" : "[name][extname]"),
      },
    },
  },
  server: {
    proxy: {
      "/v4": { target: "http://127.0.0.1:30100", ws: true },
      "^/(health|version|openapi.json)$": "http://127.0.0.1:30100",
    },
  },
});
